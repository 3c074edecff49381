# vmferry: `make help` lists the targets. `make demo` and `make test` do their own set-up.
SHELL := /bin/bash -euo pipefail
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/vmferry/vmferry/cmd/internal/cli.version=$(VERSION)
LINT := .tools/golangci-lint
export CGO_ENABLED := 1
# For `make demo`.
ARGS ?=
# For `make crash`.
ROUNDS ?= 20
KILLS ?= 4
DISK_MIB ?= 1024
# For `make takeovers`.
TAKEOVERS ?= 500
# For `make tamper`.
SEEDS ?= 200
# For `make outage`: the tests that are longer where VMFERRY_LONG is set.
OUTAGE := TestAJobWaitsForWhatIsUnavailable|TestBeyondThePatience|IsAwayIsWaitedFor
# For `make fuzz`, each target.
FUZZTIME ?= 30s

.PHONY: help setup demo build web test it outage bench bench-api bench-history bench-page crash soak takeovers tamper \
	faults openapi alerts fuzz lint words fmt clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what building and testing needs (asks nothing; does nothing the second time)
	@scripts/setup

demo: build ## rehearse a migration on this machine, end to end: ARGS=--keep leaves it running, with its page
	@bin/vmferry demo $(ARGS)

build: setup ## build bin/vmferry, and bin/vmferryd beside it
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/.new/ ./cmd/vmferry ./cmd/vmferryd
	@# Copied, for Linux keeps a file that the linker has mapped in memory in larger blocks than the program uses.
	@install -m 755 bin/.new/* bin/ && rm -r bin/.new

web: ## build the page: web/dist from web/src (needs node 20.19 or newer)
	@scripts/web

test: setup ## the tests, with the race detector; but for the longest ones
	@$(GO) vet ./...
	@$(GO) test -race -short -shuffle=on -count=1 -timeout 30m ./...

it: build ## the longest tests, which make test leaves out
	@$(GO) test -race -count=1 -timeout 30m -run "$$(scripts/long)" ./...

outage: build ## vCenter and sources are away for two minutes, for real, and for hours in virtual time
	@VMFERRY_LONG=1 $(GO) test -count=1 -timeout 60m -run '$(OUTAGE)' ./actors ./app

bench: build ## compare the copy engine with nbdcopy and qemu-img on this machine
	@$(GO) run ./scripts/bench -vmferry bin/vmferry

bench-api: build ## measure what the API costs: external jobs, lists, metrics, event streams
	@$(GO) run ./scripts/benchapi -vmferryd bin/vmferryd

bench-history: build ## measure what the history costs MariaDB, SQLite and a copy
	@$(GO) run ./scripts/benchhistory -vmferryd bin/vmferryd

bench-page: build ## measure what the page costs a browser: first job on screen, sizes, work with 200 running jobs, tabs
	@$(GO) run ./scripts/benchpage -vmferryd bin/vmferryd

crash: build ## kill copies and their servers again and again, and compare: ROUNDS=100 KILLS=4
	@ROUNDS=$(ROUNDS) KILLS=$(KILLS) DISK_MIB=$(DISK_MIB) VMFERRY=$(CURDIR)/bin/vmferry \
		$(GO) test -count=1 -v -timeout 24h ./nbd/crash ./nbd | grep -v '^=== '

soak: build ## move a VM again and again while everything is killed at random: KILLS=200
	@$(GO) run ./scripts/soak -vmferry bin/vmferry -kills $(if $(filter file default,$(origin KILLS)),20,$(KILLS))

takeovers: ## take a volume away from a writer that never stops, again and again: TAKEOVERS=500
	@VMFERRY_TAKEOVERS=$(TAKEOVERS) $(GO) test -v -count=1 -timeout 60m -run TestNoWriteOfAnOldEpochReachesTheNext \
		./volumes | grep '^takeovers=\|^FAIL\|_test.go'

tamper: build ## move VMs while others write to the targets, swap and move them, and compare: SEEDS=200
	@$(GO) run ./scripts/tamper -vmferry bin/vmferry -seeds $(SEEDS)

faults: build ## run the fault table (docs/faults.md) and print it
	@$(GO) run ./scripts/faults

openapi: build ## lint the description of the API, and make clients of it that list jobs
	@scripts/openapi/run bin/vmferry

alerts: ## test the alert rules with promtool
	@scripts/alerts

fuzz: setup ## give damaged input to every decoder: FUZZTIME=30s for each
	@scripts/fuzz $(FUZZTIME)

lint: setup words $(LINT) ## run the linters
	@$(LINT) fmt --diff
	@$(LINT) run ./...

words: ## find words that are not used here, lines that are too long, and next steps of another form
	@$(GO) run ./scripts/words

fmt: $(LINT) ## format the sources
	@$(LINT) fmt

$(LINT): tools/go.mod
	@cd tools && GOWORK=off $(GO) build -o ../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

clean: ## remove what was built and downloaded into this folder
	@rm -rf bin .tools .third_party go.work go.work.sum scripts/openapi/{node_modules,made,out,goclient/api} web/node_modules
