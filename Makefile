# `make demo` and `make test` do their own set-up, on a fresh Debian machine as root; the others want it done once.
.PHONY: demo test check unit coverage contract cli deviceplugin userspace lab matrix freeze freeze-node freeze-kubevirt kubevirt docs protos fix bench interpreter bundles floor release clean
PYTHON := .venv/bin/python
TIMED := build/timed.sh

demo:     ; @$(TIMED) set-up build/setup.sh && $(TIMED) demo $(PYTHON) -m tests.demo
test:     ; @$(TIMED) set-up build/setup.sh && $(TIMED) tests build/test.sh
check:    ; @build/bootstrap.sh && $(TIMED) check build/check.sh
unit:     ; @$(TIMED) unit $(PYTHON) -m pytest tests/unit
coverage: ; @$(TIMED) coverage $(PYTHON) build/unit.py $(RAISE) tests/unit
contract: ; @$(TIMED) contract $(PYTHON) -m pytest tests/contract
deviceplugin: ; @$(TIMED) deviceplugin $(PYTHON) -m pytest tests/deviceplugin
kubevirt: freeze ; @$(TIMED) kubevirt $(PYTHON) -m pytest tests/kubevirt
cli:      freeze ; @$(TIMED) cli $(PYTHON) -m pytest tests/cli
userspace: freeze ; @$(TIMED) userspace $(PYTHON) -m pytest tests/userspace
lab:      freeze ; @$(TIMED) lab $(PYTHON) -m pytest tests/lab
matrix:   freeze ; @$(TIMED) matrix env BAREWIRE_MATRIX=1 $(PYTHON) -m pytest tests/lab/test_sriov_faults.py tests/lab/test_netdevsim.py tests/lab/test_driver_host.py tests/userspace/test_userspace_faults.py tests/contract/test_ipam_etcd_nodes.py tests/contract/test_ipam_moving_pods.py tests/contract/test_ipam_etcd_restored.py tests/contract/test_ipam_adopt.py tests/contract/test_hostile_values.py tests/unit
	@$(TIMED) matrix-deviceplugin env BAREWIRE_MATRIX=1 $(PYTHON) -m pytest tests/deviceplugin/test_many.py
	@$(TIMED) matrix-kubevirt env BAREWIRE_MATRIX=1 $(PYTHON) -m pytest tests/kubevirt/test_guests.py tests/kubevirt/test_migration.py
freeze:   ; @build/bootstrap.sh && build/freeze.sh
freeze-node: ; @build/bootstrap.sh && build/freeze_resident.sh node
freeze-kubevirt: ; @build/bootstrap.sh && build/freeze_resident.sh kubevirt
protos:   ; @$(PYTHON) build/protos.py
docs:     ; @$(PYTHON) build/docs.py
fix:      ; @$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .
bench:    freeze ; @$(PYTHON) -m tests.bench
interpreter: ; @build/bootstrap.sh && $(PYTHON) build/interpreter.py
bundles:  ; @build/bootstrap.sh && $(TIMED) bundles $(PYTHON) build/bundles.py
floor:    bundles ; @$(TIMED) floor $(PYTHON) -m pytest tests/floor
release:  ; @$(PYTHON) build/release.py $(VERSION) $(APPLY)
clean:    ; @rm -rf .cache dist .hypothesis
