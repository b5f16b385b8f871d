# Sourced by quickstart.sh and test.sh: a virtual environment with the pinned versions. SETUP_EXTRAS adds extras ([dev]).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ]; then
    if [ ! -e .venv/bin/activate ]; then
        python3 -m venv --clear .venv || { echo "error: python3 cannot make a virtual environment: sudo apt-get install python3-venv" >&2; exit 2; }
    fi
    . .venv/bin/activate
fi
python -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(python --version) is too old: Python 3.10 or newer is needed" >&2; exit 2; }

stamp="$VIRTUAL_ENV/genesis_ds-$(cat constraints.txt pyproject.toml launch/setup.sh | sha256sum | cut -c1-16)${SETUP_EXTRAS:-}"
if [ ! -e "$stamp" ]; then
    echo "Installing the pinned versions into $VIRTUAL_ENV (once)"
    # DeepSpeed's own set-up script imports torch, so torch comes first and the build sees this environment.
    python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel torch
    DS_BUILD_OPS=0 python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".${SETUP_EXTRAS:-}"
    touch "$stamp"
fi
