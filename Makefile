# make quickstart: the environment and the main job. make test: the environment and all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

PROMOTED = $(BIN)/llmops models show $(1)@champion >/dev/null 2>&1 || { \
	  $(BIN)/llmops models approve $(1)/1 --as somebody-else && $(BIN)/llmops models promote $(1)/1; }

.PHONY: environment debian quickstart serve-demo feedback-demo screenshots check test benchmark clean

environment: $(VENV)/.ready-$(LOCK)

# torch first and alone: its extra index, when out of reach, then costs one attempt and not one a package.
$(VENV)/.ready-cpu: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --retries 0 --no-deps --extra-index-url $(TORCH_INDEX) $$(grep '^torch==' requirements/cpu.txt)
	grep -v '^torch==' requirements/cpu.txt > $(VENV)/rest.txt
	$(PIP) --no-deps -r $(VENV)/rest.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.ready-cuda: requirements/cuda.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps -r requirements/cuda.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# What pip does not have, from Debian's packages. Tests drive a browser, a database server and Prometheus; targets that
# need other ones name them.
DEBIAN := chromium postgresql prometheus

debian:
	@missing=$$(for one in $(DEBIAN); do dpkg -s $$one >/dev/null 2>&1 || echo $$one; done); \
	if [ -n "$$missing" ]; then \
	  if [ $$(id -u) = 0 ]; then as=; else as=sudo; fi; \
	  $$as apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $$as apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

quickstart: environment
	$(BIN)/llmops finetune recipes/quickstart.yaml

# The quickstart's model approved, promoted, quantized and served; asked with curl and with the openai client.
define ASK
from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none needed on this machine")
question = "festival[Iron Week], town[Mill Port], month[November], days[4], music[organ music], food[soup], entry[free]"
for headers in ({}, {"x-llmops-size": "large"}):
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64, extra_headers=headers
    )
    print("\n" + raw.headers["x-llmops-version"], "because", raw.headers["x-llmops-route"])
    print(raw.parse().choices[0].message.content)
endef

serve-demo: DEBIAN := curl
serve-demo: export ASK := $(ASK)
serve-demo: debian quickstart
	$(call PROMOTED,quickstart)
	$(BIN)/llmops quantize models:/quickstart@champion --scheme w4a16
	@set -e; \
	$(BIN)/llmops serve configs/quickstart-gateway.yaml & \
	trap 'kill $$! 2>/dev/null; wait' EXIT; \
	until curl -fs http://127.0.0.1:8000/ready >/dev/null; do kill -0 $$!; sleep 1; done; \
	echo; curl -s -D - http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
	  -d '{"model": "auto", "max_tokens": 32, "messages": [{"role": "user", "content": "Solve 3x^2 + 5x - 7 = 0"}]}'; echo; \
	$(BIN)/python -c "$$ASK"; \
	echo; $(BIN)/llmops serve status; $(BIN)/llmops serve ledger --by engine

# Twenty requests to the quickstart's model, kept with two answers each; two raters in browsers, by the keyboard; what
# they preferred exported, a model trained on it, judged and promoted.
define ASK20
from itertools import islice
from openai import OpenAI
from llmops.builtin.domains import rows
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none needed on this machine")
for row in islice(rows("festivals", "train"), 20):
    asked = [{"role": "user", "content": row["prompt"]}]
    answer = client.chat.completions.create(model="quickstart", messages=asked, temperature=1.5, max_tokens=64)
print("20 requests; the last answer:", answer.choices[0].message.content)
endef

feedback-demo: DEBIAN := curl chromium
feedback-demo: export ASK20 := $(ASK20)
feedback-demo: debian quickstart
	$(call PROMOTED,quickstart)
	@set -e; \
	$(BIN)/llmops serve configs/feedback-gateway.yaml & \
	trap 'kill $$! 2>/dev/null; wait' EXIT; \
	until curl -fs http://127.0.0.1:8000/ready >/dev/null; do kill -0 $$!; sleep 1; done; \
	$(BIN)/python -c "$$ASK20"; $(BIN)/llmops serve drain
	$(BIN)/llmops feedback create feedback/campaigns/quickstart.yaml
	@set -e; \
	$(BIN)/llmops feedback serve & \
	trap 'kill $$! 2>/dev/null; wait' EXIT; \
	until curl -fs http://127.0.0.1:8400/ready >/dev/null; do kill -0 $$!; sleep 1; done; \
	$(BIN)/python -m tests.feedback.scripted_raters http://127.0.0.1:8400 quickstart-preferences
	$(BIN)/llmops feedback report quickstart-preferences
	$(BIN)/llmops feedback export quickstart-preferences --for dpo --validation 0.1
	test -d models/quickstart || $(BIN)/llmops merge models:/quickstart@champion --out models/quickstart
	$(BIN)/llmops finetune recipes/dpo-from-feedback.yaml
	$(call PROMOTED,quickstart-preferred)

# The README's pictures of the rating service, drawn as SVG from its pages in chromium.
screenshots: DEBIAN := chromium
screenshots: environment debian
	$(BIN)/python -m tests.feedback.pages.screenshots

check: environment
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# Two workers with a thread each: more threads than processors wait for each other.
test: environment debian
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

benchmark: environment
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
