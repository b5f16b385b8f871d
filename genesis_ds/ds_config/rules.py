"""What DeepSpeed 0.19.8 does, or rather does not do, with keys that it accepts: plain data for lint.

Every entry was read in the source; the places are relative to the deepspeed package. s12 is
runtime/zero/stage_1_and_2.py, s3 stage3.py, pp partition_parameters.py, engine runtime/engine.py.
"""

_REMOVED = "DeepSpeed 0.19.8 no longer has it; remove the section"  # runtime/config.py:81-118
_NOT_DRIVEN = "this trainer does not drive it; remove the section"

# Refused wherever the key is present: dotted key -> why and what to do.
REFUSED: dict[str, str] = {
    "scheduler": "the run's YAML owns the learning-rate schedule; remove the section",
    "bfloat16": 'old name; write "bf16"',
    **dict.fromkeys(
        (
            "nebula",
            "compression_training",
            "amp",
            "quantize_training",
            "sparse_gradients",
            "eigenvalue",
            "sparse_attention",
            "elasticity",
            "graph_harvesting",
            "curriculum_learning",
            "progressive_layer_drop",
        ),
        _REMOVED,
    ),
    **dict.fromkeys(
        (
            "autotuning",
            "data_efficiency",
            "datastates_ckpt",
            "expert_parallel",
            "hybrid_engine",
            "tensor_parallel",
            "use_data_before_expert_parallelism",
            "weight_quantization",
        ),
        _NOT_DRIVEN,
    ),
    "pipeline": "this trainer has no pipeline parallelism; remove the section",
    "sequence_parallel_size": "this trainer has no sequence parallelism; remove the key",
    "data_parallel_size": "it belongs to sequence parallelism, which this trainer does not drive; remove the key",
    "seq_parallel_communication_data_type": "this trainer has no sequence parallelism; remove the key",
    "managed_gradient_accumulation": "this trainer counts on DeepSpeed's accumulation; remove the key",
    "zero_optimization.zenflow": "it changes what an optimizer step does and is not driven here; remove it",
    "zero_optimization.legacy_stage1": "DeepSpeed raises on it; remove the key",  # engine:2650
    **dict.fromkeys(
        (
            "zero_optimization.mics_shard_size",
            "zero_optimization.mics_hierarchical_params_gather",
            "zero_optimization.zeropp_loco_param",
        ),
        "DeepSpeed 0.19.8 no longer has it; remove the key",  # runtime/config.py:120
    ),
    # Deprecated: runtime/zero/config.py json_schema_extra
    "zero_optimization.cpu_offload": 'deprecated; write "offload_optimizer": {"device": "cpu"}',
    "zero_optimization.cpu_offload_param": 'deprecated; write "offload_param": {"device": "cpu"}',
    "zero_optimization.cpu_offload_use_pin_memory": 'deprecated; write "pin_memory" in the offload sections',
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": (
        'deprecated; write "stage3_gather_16bit_weights_on_model_save"'
    ),
    # DeepSpeed's models accept a field by its alias and by its own name (populate_by_name): one name here.
    **{
        f"zero_optimization.{name}": f'write it as documented: "stage3_{name}"'
        for name in (
            "prefetch_bucket_size",
            "param_persistence_threshold",
            "model_persistence_threshold",
            "max_live_parameters",
            "max_reuse_distance",
            "gather_16bit_weights_on_model_save",
            "module_granularity_threshold",
            "use_all_reduce_for_fetch_params",
            "allgather_sequential",
        )
    },
    "optimizer.params.max_grad_norm": "write optimizer.gradient_clipping in the run's YAML instead",  # engine:2481
    "optimizer.params.fp32_optimizer_states": (
        "alone it changes nothing; remove it, or set bf16.bf16_master_weights_and_grads and bf16.bf16_optimizer_states"
    ),
    **dict.fromkeys(
        ("optimizer.params.torch_adam", "optimizer.params.fused", "optimizer.params.foreach"),
        "the run's YAML chooses the implementation; remove the key",
    ),
    "optimizer.params.adam_w_mode": "this trainer uses decoupled weight decay (AdamW) only; remove the key",
}

# Refused when the value is true.
REFUSED_WHEN_TRUE: dict[str, str] = {
    "fp16.enabled": 'this trainer does not run fp16; write "bf16": {"enabled": true}',
    "compile.deepcompile": "DeepCompile needs CUDA and is not driven by this trainer; remove it",
    "zero_optimization.offload_optimizer.super_offload": "it is built for NVLink-C2C machines; remove it",
}

ALL, STAGES_1_2, STAGE_3 = (1, 2, 3), (1, 2), (3,)

# The stages at which DeepSpeed reads a key of zero_optimization. The optimizers' arguments: engine:2670-2707 for stages
# 1 and 2, engine:2751-2795 for stage 3. Stage 0 reads none: its all-reduce has a fixed bucket (engine:151, 3073).
ZERO_STAGES: dict[str, tuple[int, ...]] = {
    "contiguous_gradients": ALL,  # s12:300 (forced on by optimizer offload), s3:428
    "reduce_scatter": ALL,  # s12:272, s3:353
    "reduce_bucket_size": ALL,  # s12:595, s3:387
    "overlap_comm": ALL,  # s12:274, s3:280, 341
    "load_from_fp32_weights": ALL,  # engine:4762
    "offload_optimizer": ALL,  # s12:220, s3:823; stage 0 would still pick DeepSpeedCPUAdam (engine:1562)
    "use_multi_rank_bucket_allreduce": STAGES_1_2,  # s12:1695
    "allgather_bucket_size": STAGES_1_2,  # s12:597
    "compute_grad_norm": STAGES_1_2,  # s12:250, enforced by runtime/zero/config.py:389
    "elastic_checkpoint": STAGES_1_2,  # s12:3375; stage 3 raises when saving (s3:3460)
    "ignore_unused_parameters": STAGES_1_2,  # s12:1934
    "round_robin_gradients": STAGES_1_2,  # s12:469
    "parameter_alignment": STAGES_1_2,  # s12:444
    "offload_param": STAGE_3,  # s3:830
    "sub_group_size": STAGE_3,  # s3:433
    "stage3_prefetch_bucket_size": STAGE_3,
    "stage3_param_persistence_threshold": STAGE_3,
    "stage3_model_persistence_threshold": STAGE_3,
    "stage3_max_live_parameters": STAGE_3,
    "stage3_max_reuse_distance": STAGE_3,
    "stage3_gather_16bit_weights_on_model_save": STAGE_3,  # engine:5732
    "stage3_module_granularity_threshold": STAGE_3,
    "stage3_use_all_reduce_for_fetch_params": STAGE_3,  # pp:1192
    "stage3_allgather_sequential": STAGE_3,  # engine:2742
    "zero_hpz_partition_size": STAGE_3,  # s3:265
    "zero_quantized_weights": STAGE_3,
    "zero_quantized_nontrainable_weights": STAGE_3,
    "zero_quantized_gradients": STAGE_3,  # engine:2159 hands the group to stage 3 only (engine:2769)
    "memory_efficient_linear": STAGE_3,  # pp:1080
    "pipeline_loading_checkpoint": STAGE_3,  # engine:4738 asserts stage 3
    "override_module_apply": STAGE_3,  # pp:1158
    "log_trace_cache_warnings": STAGE_3,
    "enable_sanity_checks": STAGE_3,  # pp:1150
    "leaf_module": STAGE_3,  # engine:2076 flags modules; only the stage-3 hooks look at the flag
}

# Accepted by DeepSpeed and read by nothing that this trainer runs.
NEVER_READ: dict[str, str] = {
    "zero_optimization.allgather_partitions": "no code of DeepSpeed 0.19.8 reads it",  # engine:1745 has no caller
    "zero_optimization.save_muon_momentum_buffer_in_memory": "only the Muon optimizer reads it",
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": "only super_offload reads it",
    "disable_allgather": "no code of DeepSpeed 0.19.8 reads it",  # runtime/config.py:489 stores it
    "dataloader_drop_last": "only DeepSpeed's own data loader reads it",  # engine:2880
    "vocabulary_size": "DeepSpeed only warns when it is no multiple of 8",  # runtime/config.py:717
    "optimizer.legacy_fusion": "only DeepSpeed's FusedAdam without ZeRO reads it",  # engine:2583-2589
    "zero_allow_untested_optimizer": "this trainer sets it where an optimizer needs it",  # zero/utils.py:45
    "checkpoint.parallel_write": "only pipeline parallelism reads it",  # runtime/pipe/engine.py:222
}

# Read only when the section's device is "nvme": s3:839-854 and swap_tensor/ for the optimizer, swap_tensor/
# partitioned_param_swapper.py:84-124 and s3:895-907 for the parameters.
NVME_ONLY: dict[str, tuple[str, ...]] = {
    "offload_optimizer": ("nvme_path", "buffer_count", "pipeline_read", "pipeline_write", "fast_init"),
    "offload_param": ("nvme_path", "buffer_count", "buffer_size", "max_in_cpu"),
}
