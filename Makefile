# Verbs of this project; `make help` lists them. `make test` is what .ci/run calls.
SHELL := /bin/bash
GO ?= go
TAGS := invariants
export CGO_ENABLED ?= 1
# What the tests run for real, as command:debian-package.
NEEDS := gcc:build-essential lp_solve:lp-solve etcd:etcd-server fio:fio sfdisk:fdisk flock:util-linux mkfs.ext4:e2fsprogs ip:iproute2 qemu-img:qemu-utils nbdinfo:libnbd-bin nbdsh:python3-libnbd nbdkit:nbdkit openssl:openssl perl:perl python3:python3 mkfs.xfs:xfsprogs losetup:mount nbdfuse:libnbd-bin blkid:util-linux
# Debian packages without a command of their own.
APT :=

FUZZTIME ?= 30s
DURATION ?= 30m
SEED ?= random
CRASH_POINTS ?= 100000
# Whole clusters of `make test-integrations`, each with 60 simulated seconds of faults.
CLUSTER_SEEDS ?= 1-240

.PHONY: help build test test-integrations race fuzz soak bench lint demo demo-up demo-down demo-store docs lib fio qemu-plugin packages tempest deps clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## *' '{ printf "%-18s %s\n", $$1, $$2 }'

build: ## compile everything; programs go to bin/
	$(GO) build ./...
	@mkdir -p bin
	@for f in $$(find . -path './[a-z]*/vitastor-*/main.go'); do d=$$(dirname $$f); \
		echo "bin/$$(basename $$d)"; $(GO) build -trimpath -o bin/ $$d || exit 1; done

test: deps ## every fast test (under 20 minutes on 2 cores)
	$(GO) test -tags $(TAGS) -timeout 18m ./...

test-integrations: NEEDS += qemu-system-x86_64:qemu-system-x86 debugfs:e2fsprogs pkg-config:pkg-config glib-mkenums:libglib2.0-dev dpkg-source:dpkg-dev envsubst:gettext-base debootstrap:debootstrap rpm:rpm \
	patch:patch zstd:zstd xz:xz-utils depmod:kmod vdpa:iproute2 as:binutils ps:procps libvirtd:libvirt-daemon virsh:libvirt-clients
test-integrations: APT += libvirt-daemon-driver-qemu cinder-api cinder-scheduler cinder-volume cinder-backup python3-cinder python3-cinderclient \
	nova-common python3-nova python3-os-brick
test-integrations: deps ## heavier suites: real processes and machines, hypervisors' own suites, 240 simulated clusters, 100 000 crash points, race detector
	VITASTOR_E2E=full $(GO) test -p 1 -count=1 -v -timeout 25m ./internal/e2e ./internal/e2e/hosts ./internal/e2e/vm ./internal/e2e/guest ./internal/e2e/vhost ./internal/e2e/libvirt ./internal/e2e/packages
	VITASTOR_E2E=full $(GO) test -p 1 -count=1 -v -timeout 25m ./frontends/csi ./proxmox ./openstack
	$(GO) test -count=1 -timeout 15m -run '^TestSeeds$$' ./internal/simcluster -args -simcluster.seed=$(CLUSTER_SEEDS) -simcluster.duration=60s
	CRASH_POINTS=$(CRASH_POINTS) $(GO) test -count=1 -v -timeout 15m -run '^TestCrash$$' ./osd/store/crashtest
	$(GO) test -race -p 1 -timeout 20m $$($(GO) list ./internal/... ./osd/sentinel ./mon/web ./libclient/image ./libclient/connection | grep -vE 'internal/(simcluster|e2e|archtest|bench|placement)')

tempest: NEEDS += tempest:tempest
tempest: APT += cinder-api cinder-scheduler cinder-volume cinder-backup python3-cinder python3-cinderclient keystone python3-keystone python3-tempest cinder-tempest-plugin
tempest: deps ## OpenStack's own suite for volumes, on our driver
	VITASTOR_TEMPEST=1 $(GO) test -count=1 -v -timeout 60m -run '^TestTempest$$' ./openstack

race: deps ## the tests under the race detector
	$(GO) test -race -timeout 40m ./...

fuzz: ## every fuzz target for FUZZTIME each (default 30s)
	$(GO) -C internal/tools run ./fuzzall -root ../.. -time $(FUZZTIME)

soak: ## all kernel devices of Kubernetes, then hours of random histories: clusters with faults, disks with crashes: make soak SEED=... DURATION=30m
	VITASTOR_E2E=full VITASTOR_CSI_METHODS=nbd,ublk,vduse $(GO) test -count=1 -v -timeout 40m -run '^TestCSI$$' ./internal/e2e/guest
	$(GO) test -count=1 -timeout 0 -run '^TestSeeds$$' ./internal/simcluster -args -simcluster.soak=$(DURATION) -simcluster.duration=60s
	$(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./osd/store/crashtest -args -seed=$(SEED) -duration=$(DURATION)

bench: ## the table of figures, paired with C and raw I/O in the same run
	$(GO) run ./internal/bench

demo: deps build ## a cluster on this machine, images over NBD, an OSD killed; until Ctrl-C (from a terminal)
	@$(GO) run ./internal/e2e/demo

demo-up: build ## the same, left running; prints what to try
	@$(GO) run ./internal/e2e/demo -up

demo-down: ## stop what demo-up has left running
	@$(GO) run ./internal/e2e/demo -down

demo-store: build ## a disk, a writer that is killed again and again, and nothing lost
	@mkdir -p tmp/demo
	@test -f tmp/demo/osd1.img || { truncate -s 1G tmp/demo/osd1.img && \
		bin/vitastor-disk prepare --osd_num 1 --data_device tmp/demo/osd1.img --meta_reserve 2x,16M \
		--data_csum_type crc32c --disable_data_fsync 1; }
	@$(GO) run ./internal/e2e/storekill -file tmp/demo/osd1.img -rounds 5
	@bin/vitastor-disk check tmp/demo/osd1.img
	@echo "The disk stays in tmp/demo/osd1.img (a second make demo-store goes on with it). Try:"
	@echo "  bin/vitastor-disk read-sb tmp/demo/osd1.img"
	@echo "  bin/vitastor-disk dump-meta tmp/demo/osd1.img | head"

lint: ## gofmt, vet, staticcheck, shellcheck, generated files up to date
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags $(TAGS) ./...
	@mkdir -p bin
	$(GO) -C internal/tools build -o ../../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck -tags $(TAGS) ./...
	@command -v shellcheck >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends shellcheck >/dev/null; }
	shellcheck .ci/run packaging/build.sh packaging/scripts/*.sh internal/e2e/packages/testdata/inside.sh
	$(GO) mod verify >/dev/null

lib: ## the C library, in bin/lib
	$(MAKE) -C libclient/libvitastor OUT=$(CURDIR)/bin/lib

fio: lib ## the engine for the fio that is installed, bin/lib/libfio_vitastor.so (fetches its source with apt)
	$(MAKE) -C frontends/fio OUT=$(CURDIR)/bin/lib SRC=$(CURDIR)/bin/.src

qemu-plugin: lib ## the block driver for the QEMU that is installed, bin/lib/block-vitastor.so (fetches its source with apt)
	$(MAKE) -C qemu-plugin OUT=$(CURDIR)/bin/lib SRC=$(CURDIR)/bin/.src

packages: NEEDS := gcc:build-essential envsubst:gettext-base gzip:gzip
packages: deps ## Debian and RPM packages, in bin/packages
	packaging/build.sh bin/packages deb rpm

deps: ## install what the tests run (Debian packages), if missing
	@missing=; for n in $(NEEDS); do command -v $${n%%:*} >/dev/null 2>&1 || PATH=$$PATH:/usr/sbin:/sbin command -v $${n%%:*} >/dev/null 2>&1 || missing="$$missing $${n##*:}"; done; \
	for p in $(APT); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing:$$missing"; \
		if [ "$$(id -u)" != 0 ]; then echo "run as root: apt-get install$$missing"; exit 1; fi; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

clean: ## remove what build made
	rm -rf bin
