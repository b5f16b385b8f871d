// AdamW on bf16 weights and bf16 moments: the arithmetic is fp32, and what is stored is rounded stochastically.
//
// A value between two bf16 goes to the upper one with the probability of its distance from the lower one: 16 random
// bits are added to the 16 bits that bf16 cuts off. So its expectation is the value itself, and updates that are far
// smaller than a step of bf16 are not lost (Gupta et al., arXiv 1502.02551). With a compensation the weights are
// rounded to the nearest instead, and what that cuts off is kept in bf16 and added at the next update (Kahan's sum);
// as it has 8 bits more and no others, it is rounded stochastically itself.
//
// The bits depend on the element's place in its parameter, the parameter's key and the step, and on nothing else.
// Only operations that IEEE 754 rounds in one way are used, and none is contracted (-ffp-contract=off): a build with
// AVX-512, with AVX2 or without either gives the same bits. The loop is written to be vectorised by the compiler.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

using bf16 = uint16_t;

constexpr int64_t BLOCK = 1 << 15;  // elements that a thread takes at a time

float widened(bf16 value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof bits);
    return result;
}

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

bf16 stochastic(float value, uint32_t noise) { return bf16((bits_of(value) + (noise & 0xffff)) >> 16); }

bf16 nearest(float value) {  // ties to even
    uint32_t bits = bits_of(value);
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// lowbias32 of Chris Wellons' hash-prospector (public domain): a bijection whose output bits flip with probability 1/2.
uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
uint64_t mixed64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

}  // namespace

extern "C" {

// A part of a parameter in the flat tensors.
struct Slice {
    int64_t start;   // in the tensors
    int64_t numel;
    int64_t offset;  // of its first element in the parameter
    uint64_t key;    // of the parameter
};

struct Settings {
    float beta1, one_minus_beta1, beta2, one_minus_beta2;
    float step_size;    // lr / (1 - beta1^step)
    float scale2;       // 1 / sqrt(1 - beta2^step)
    float eps, keep;    // keep: 1 - lr * weight_decay
};

}  // extern "C"

namespace {

template <bool kahan>
void update(bf16* w, const bf16* g, bf16* m, bf16* v, bf16* c, int64_t numel, uint32_t first, uint64_t key,
            const Settings& s) {
    const uint32_t low = uint32_t(key), high = uint32_t(key >> 32);
#pragma omp simd
    for (int64_t i = 0; i < numel; ++i) {
        const uint32_t noise = mixed(mixed((first + uint32_t(i)) ^ low) ^ high);
        const float gradient = widened(g[i]);
        const float m1 = s.beta1 * widened(m[i]) + s.one_minus_beta1 * gradient;
        const float v1 = s.beta2 * widened(v[i]) + s.one_minus_beta2 * (gradient * gradient);
        const float update = s.step_size * m1 / (std::sqrt(v1) * s.scale2 + s.eps);
        m[i] = stochastic(m1, noise);
        v[i] = stochastic(v1, noise >> 16);
        const uint32_t another = mixed(noise + 0x9e3779b9u);
        if (kahan) {
            const float w1 = (widened(w[i]) + widened(c[i])) * s.keep - update;
            w[i] = nearest(w1);
            c[i] = stochastic(w1 - widened(w[i]), another);
        } else {
            w[i] = stochastic(widened(w[i]) * s.keep - update, another);
        }
    }
}

}  // namespace

extern "C" {

// c: the compensation, or null for weights that are rounded stochastically. Elements that no slice has stay as they are.
void bf16_adam(bf16* w, const bf16* g, bf16* m, bf16* v, bf16* c, const Slice* slices, int64_t n_slices, uint64_t step,
               const Settings* settings, int threads) {
    for (const Slice* slice = slices; slice != slices + n_slices; ++slice) {
        const uint64_t key = mixed64(slice->key + step * 0x9e3779b97f4a7c15u);
        const int64_t blocks = (slice->numel + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (blocks > 1)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t done = block * BLOCK, at = slice->start + done;
            const int64_t numel = std::min(BLOCK, slice->numel - done);
            const uint32_t first = uint32_t(slice->offset + done);
            if (c) {
                update<true>(w + at, g + at, m + at, v + at, c + at, numel, first, key, *settings);
            } else {
                update<false>(w + at, g + at, m + at, v + at, nullptr, numel, first, key, *settings);
            }
        }
    }
}

}  // extern "C"
