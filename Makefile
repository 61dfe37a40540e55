# Two commands: `make run` and `make test`. Each makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPU_TORCH := https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint starter pictures clean

# ARGS: further options, such as `make run ARGS="--port 9000"` or `make test ARGS="-k ranking"`.
run: $(VENV)/.installed-run
	@exec $(BIN)/plumbline up --demo $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

# Makes the small model that ships with the project again.
starter: $(VENV)/.installed-run
	PYTHONPATH=platform $(BIN)/python -m plumbline.demo.starter

# Makes the README's pictures again; needs Chromium.
pictures: $(VENV)/.installed-dev
	$(BIN)/python docs/pictures.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Plumbline needs Python 3.11 or newer, and this is Python %d.%d. Name a newer one: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The development packages include all that `make run` needs.
$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	@test -e $(VENV)/.installed-dev && test $(VENV)/.installed-dev -nt pyproject.toml || { $(call install,.); }
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@$(call install,.[dev])
	@touch $@

# Without an NVIDIA GPU, PyTorch's own index has a build that is a tenth of the size; where that index does not answer
# within 3 s, pip takes what its usual places have.
define install
options=""; \
if ! nvidia-smi -L >/dev/null 2>&1; then \
  $(BIN)/python -c 'import urllib.request; urllib.request.urlopen("$(CPU_TORCH)/", timeout=3)' >/dev/null 2>&1 \
  && options="--extra-index-url $(CPU_TORCH)"; \
fi; \
echo "Installing into $(VENV); the first time takes a minute or two …"; \
$(BIN)/python -m pip install --quiet $$options --editable '$(1)'
endef
