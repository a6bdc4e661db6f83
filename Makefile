# `make deploy` on a fresh machine needs only Python 3.11+ and root or sudo.
INVENTORY ?= inventory/local.py
HOSTS ?= 4
SETTABLE := INVENTORY LIMIT RELEASE JSON SINCE FOLLOW SAFE FORCE HOSTS BARE ARGS CONTAINER WRITE FAULTS_SEED FAULTS_COUNT
# The variables given to make are plain text: neither make nor a shell expands them.
$(foreach name,$(SETTABLE),$(eval override $(name) := $$(value $(name))))
export $(SETTABLE)
UNKNOWN := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(UNKNOWN),$(error $(UNKNOWN): unknown variable, nothing was done; these are known: $(SETTABLE)))
RUN := .venv/bin/python -m deploy
FORCED := $(if $(filter 1,$(FORCE)),--data force=1)
PYTEST := .venv/bin/pytest
VERIFY := .venv/bin/python -m pytest --pyargs kis_gateway_deploy.verify
SIDE_BY_SIDE := $(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder
SOURCES := benchmarks deploy inventory kis_gateway_deploy lab pictures services tests
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Says every 10 s how long a command has taken.
saying = { $(2); } & job=$$!; n=0; while kill -0 $$job 2>/dev/null; do sleep 1; n=$$((n + 1)); [ $$((n % 10)) -ne 0 ] || echo "    $(1): $$n s"; done; wait $$job
.DEFAULT_GOAL := help

.PHONY: help adopt deploy verify status history logs plan drift restart renew rollback down lab lab-down test test-lab test-nightly faults lint lock bench

help:  ## this list | 이 목록
	@case "$${LC_ALL:-$${LC_MESSAGES:-$$LANG}}" in ko*) text='.* | \(.*\)' ;; *) text='\(.*\) | .*' ;; esac; \
	sed -n "s/^\([a-z-]*\):.*## $$text/\1\t\2/p" Makefile | expand -t 12

.venv/ready: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed.'; exit 1; }
	@$(call saying,making .venv,python3 -m venv .venv >/dev/null 2>&1 || { rm -rf .venv && $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv >/dev/null && python3 -m venv .venv; })
	@$(call saying,installing Python packages into .venv,.venv/bin/pip install --quiet --quiet --disable-pip-version-check --require-hashes -r requirements.lock)
	@.venv/bin/pip install --quiet --quiet --disable-pip-version-check --no-deps --editable .
	@.venv/bin/python -m compileall -q kis_gateway_deploy  # pyinfra caches no bytecode
	@touch $@

deploy: .venv/ready  ## bring the gateway up on every host of INVENTORY; FORCE=1: outside of rollout_window, too | INVENTORY의 모든 호스트에 게이트웨이 배포. FORCE=1: rollout_window 밖에서도 실행
	@$(RUN) up "$$INVENTORY" "$$LIMIT" $(FORCED)

verify: .venv/ready  ## check every host of INVENTORY; SAFE=1 restarts nothing; FORCE=1 as above | INVENTORY의 모든 호스트 검사. SAFE=1: 재시작 없음. FORCE=1: 위와 같음
	@$(VERIFY) --inventory "$$INVENTORY" --limit "$$LIMIT" $(if $(SAFE),-m "not restarts") $(if $(filter 1,$(FORCE)),--force)

status: .venv/ready  ## what runs on every host, and how long its token is valid; JSON=1 for programs | 호스트마다 실행 중인 릴리스와 토큰의 남은 시간. JSON=1: 프로그램용
	@$(RUN) status "$$INVENTORY" "$$LIMIT" $(if $(JSON),--data json=1)

history: .venv/ready  ## the last 50 switches of each host in the order of time, with their releases; JSON=1 | 호스트마다 최근 전환 50건을 시간순으로, 릴리스와 함께. JSON=1
	@$(RUN) history "$$INVENTORY" "$$LIMIT" $(if $(JSON),--data json=1)

logs: .venv/ready  ## the logs of all gateways side by side, of the last 10m; SINCE=2h, FOLLOW=1 | 모든 게이트웨이의 로그를 나란히, 최근 10m. SINCE=2h, FOLLOW=1
	@$(RUN) logs "$$INVENTORY" "$$LIMIT" $(if $(SINCE),--data "since=\"$$SINCE\"") $(if $(FOLLOW),--data follow=1)

plan: .venv/ready  ## what deploy would change and why; touches nothing | deploy가 무엇을 왜 바꿀지 표시. 아무것도 건드리지 않음
	@$(RUN) plan "$$INVENTORY" "$$LIMIT"

drift: .venv/ready  ## the same, for a scheduler: fails if anything would change | 예약 실행용 plan: 바뀔 것이 있으면 실패
	@$(RUN) drift "$$INVENTORY" "$$LIMIT"

restart: .venv/ready  ## restart the gateways, batch by batch; FORCE=1 as above | 게이트웨이를 배치별로 재시작. FORCE=1: 위와 같음
	@$(RUN) restart "$$INVENTORY" "$$LIMIT" $(FORCED)

renew: .venv/ready  ## give the gateways a new token, if KIS has ended the old one; FORCE=1 as above | KIS가 이전 접근토큰을 무효화했으면 새로 발급. FORCE=1: 위와 같음
	@$(RUN) renew "$$INVENTORY" "$$LIMIT" $(FORCED)

rollback: .venv/ready  ## go back to the previous release, or to RELEASE=id, batch by batch; FORCE=1 as above | 이전 릴리스로, 또는 RELEASE=id로 배치별로 되돌림. FORCE=1: 위와 같음
	@$(RUN) rollback "$$INVENTORY" "$$LIMIT" $(FORCED) $(if $(RELEASE),--data "release=\"$$RELEASE\"")

down: .venv/ready  ## take the gateways down; token directory and releases stay; FORCE=1 as above | 게이트웨이 제거. 토큰 디렉터리와 릴리스는 유지. FORCE=1: 위와 같음
	@$(RUN) down "$$INVENTORY" "$$LIMIT" $(FORCED)

adopt: .venv/ready  ## write the inventory of CONTAINER=name on one host to WRITE=path.py; touches nothing | 한 호스트의 CONTAINER=이름으로 인벤토리를 만들어 WRITE=path.py에 저장. 아무것도 건드리지 않음
	@$(RUN) adopt "$$INVENTORY" "$$LIMIT" --data "container=\"$$CONTAINER\"" --data "write=\"$$WRITE\""

lab: .venv/ready  ## HOSTS=4 throw-away hosts on this machine; BARE=1: without Docker | 이 PC에 일회용 호스트 HOSTS=4대. BARE=1: Docker 없이
	.venv/bin/python -m lab.lab up --hosts "$$HOSTS" $(if $(BARE),--bare)

lab-down: .venv/ready  ## remove every trace of the lab | 랩을 흔적 없이 제거
	.venv/bin/python -m lab.lab down

test: .venv/ready  ## unit, services, engine, a lab of two hosts; on a real Docker engine | 단위, 서비스, 엔진, 호스트 두 대짜리 랩 테스트. 실제 Docker 엔진 사용
	$(SIDE_BY_SIDE)

test-lab: .venv/ready  ## the rest: rollouts, issuances, faults on lab hosts | 나머지: 랩 호스트에서 롤아웃, 발급, 장애 테스트
	$(SIDE_BY_SIDE) tests/lab --ignore tests/lab/test_two_hosts.py

test-nightly: .venv/ready  ## what takes long: gateways of public projects, other ways to a host, a hostile container | 오래 걸리는 테스트: 공개 프로젝트의 게이트웨이, 다른 접속 방법, 악의적인 컨테이너
	$(SIDE_BY_SIDE) -m nightly tests/engine tests/lab

faults: .venv/ready  ## every fault of docs/faults.md on lab hosts; FAULTS_SEED=, FAULTS_COUNT=; WRITE=1: its table | docs/faults.md의 모든 장애를 랩 호스트에서 시험. WRITE=1: 표를 저장
	FAULTS_WRITE="$$WRITE" $(PYTEST) -m 'faults or not faults' tests/lab/test_faults.py

.venv-bench/ready: .venv/ready benchmarks/requirements.txt
	@python3 -m venv .venv-bench
	@.venv-bench/bin/pip install --quiet --quiet --disable-pip-version-check -r requirements.lock
	@.venv-bench/bin/pip install --quiet --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

bench: .venv-bench/ready  ## this package against others, on lab hosts; ARGS='--hosts 1 8' | 랩 호스트에서 다른 도구와 비교. ARGS='--hosts 1 8'
	.venv-bench/bin/python -m benchmarks.bench $$ARGS

lint: .venv/ready  ## ruff, mypy, import-linter, shellcheck | ruff, mypy, import-linter, shellcheck
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy $(SOURCES)
	.venv/bin/lint-imports --quiet 2>/dev/null || .venv/bin/lint-imports
	.venv/bin/shellcheck templates/*.sh

lock: .venv/ready  ## regenerate requirements.lock from pyproject.toml | pyproject.toml에서 requirements.lock 재생성
	.venv/bin/pip install --quiet uv
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra dev --extra verify pyproject.toml -o requirements.lock
