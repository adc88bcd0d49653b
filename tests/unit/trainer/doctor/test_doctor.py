import subprocess
import sys

import fbgemm_gpu.split_table_batched_embeddings_ops_training as operations
import pytest

from trainer.doctor import probes
from trainer.doctor.doctor import (
    Finding,
    check_devices,
    check_disk,
    check_gloo,
    check_host,
    check_libraries,
    check_lookup,
    check_nccl,
    check_python,
    check_stack,
    diagnose,
    format_findings,
    has_errors,
)

GIB = 1 << 30
H200 = ("NVIDIA H200", 140 * GIB)


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


@pytest.mark.parametrize(
    ("torch", "companion"),
    [("2.11.0", "1.6.0"), ("2.12.1+cpu", "1.7.0"), ("2.13.0+cu130", "1.8.2")],
)
def test_torch_fbgemm_and_torchrec_of_one_row_of_the_table_are_fine(torch, companion) -> None:
    found = check_stack({"torch": torch, "torchrec": companion, "fbgemm-gpu": companion})
    assert levels(found) == {"torch": "ok", "fbgemm-gpu": "ok", "torchrec": "ok"}


def test_a_companion_of_another_row_is_an_error_with_the_line_to_type() -> None:
    found = by_subject(
        check_stack({"torch": "2.12.0", "torchrec": "1.8.0", "fbgemm-gpu-cpu": "1.6.0"})
    )
    assert found["torchrec"].level == found["fbgemm-gpu-cpu"].level == "error"
    assert "pip install --no-deps torchrec==1.7.0" in found["torchrec"].advice
    assert "pip install fbgemm-gpu-cpu==1.7.0" in found["fbgemm-gpu-cpu"].advice


def test_version_one_point_eighty_is_not_one_point_eight() -> None:
    versions = {"torch": "2.13.0", "torchrec": "1.80.0", "fbgemm-gpu": "1.8.0"}
    assert levels(check_stack(versions))["torchrec"] == "error"


def test_what_is_missing_is_an_error() -> None:
    assert levels(check_stack({"torch": "2.13.0"})) == {
        "torch": "ok",
        "fbgemm-gpu-cpu": "error",
        "torchrec": "error",
    }
    assert levels(check_stack({})) == {"torch": "error"}


def test_both_fbgemm_wheels_are_an_error_that_says_what_to_remove() -> None:
    both = {"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}
    found = by_subject(check_stack({"torch": "2.13.0", "torchrec": "1.8.0", **both}))["fbgemm"]
    assert found.level == "error"
    assert "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu" in found.advice
    assert "fbgemm-gpu-cpu==1.8.0" in found.advice


def test_a_torch_beyond_the_table_is_a_warning_and_one_below_two_an_error() -> None:
    newer = {"torch": "2.14.0", "torchrec": "1.9.0", "fbgemm-gpu": "1.9.0"}
    assert levels(check_stack(newer)) == {"torch": "warning", "fbgemm-gpu": "ok", "torchrec": "ok"}
    assert levels(check_stack({"torch": "1.13.1"})) == {"torch": "error"}


def test_python_before_3_11_is_an_error() -> None:
    assert check_python((3, 10, 9)).level == "error"
    assert check_python((3, 11, 0)) == Finding("ok", "python", "3.11.0")


def test_libraries_are_compared_with_the_pinned_versions() -> None:
    versions = {"torchx": "0.7.0", "pyarrow": "25.0.0", "fsspec": "1", "torchmetrics": "1"}
    found = by_subject(check_libraries(versions, {"torchx": "0.7.0", "pyarrow": "26.0.1"}))
    assert found["torchx"].level == "ok"
    assert found["pyarrow"].level == "warning"
    assert "pip install pyarrow==26.0.1" in found["pyarrow"].advice
    assert found["iopath"].level == "error"
    assert found["fsspec"].level == "ok"


@pytest.mark.parametrize(
    ("cuda", "driver", "gpus", "fbgemm", "expected"),
    [
        (None, None, (), "fbgemm-gpu-cpu", {"devices": "ok"}),
        ("13.0", "580.1", (H200,), "fbgemm-gpu", {"devices": "ok", "gpu 0": "ok"}),
        (None, "580.1", (), "fbgemm-gpu-cpu", {"devices": "warning"}),
        ("13.0", "470.1", (), "fbgemm-gpu", {"devices": "error"}),
        ("13.0", None, (), "fbgemm-gpu", {"devices": "ok"}),
        (None, None, (), "fbgemm-gpu", {"devices": "ok", "fbgemm build": "error"}),
        (
            "13.0",
            "580.1",
            (H200,),
            "fbgemm-gpu-cpu",
            {"devices": "ok", "gpu 0": "ok", "fbgemm build": "error"},
        ),
    ],
)
def test_builds_driver_and_gpus_must_fit(cuda, driver, gpus, fbgemm, expected) -> None:
    devices = probes.Devices(torch_cuda=cuda, driver=driver, gpus=gpus)
    found = check_devices(devices, {fbgemm: "1.8.0"})
    assert levels(found) == expected
    assert all(finding.advice for finding in found if finding.level != "ok")


def test_a_gpu_is_told_with_its_memory_and_the_wrong_build_with_its_cure() -> None:
    devices = probes.Devices(torch_cuda="13.0", driver="580.1", gpus=(H200,))
    found = by_subject(check_devices(devices, {"fbgemm-gpu-cpu": "1.8.0"}))
    assert found["gpu 0"].found == "NVIDIA H200, 140.0 GiB"
    assert "NVIDIA driver 580.1" in found["devices"].found
    cure = "`pip uninstall -y fbgemm-gpu-cpu`, then `pip install fbgemm-gpu==1.8.0`"
    assert found["fbgemm build"].advice == cure


@pytest.mark.parametrize(
    ("outcome", "level"),
    [(0.0, "ok"), (0.5, "error"), (float("nan"), "error"), ("OSError: libtorch_cuda.so", "error")],
)
def test_a_lookup_counts_as_right_only_when_its_values_are(outcome, level) -> None:
    found = check_lookup("cpu", outcome)
    assert found.level == level
    assert bool(found.advice) == (level == "error")
    assert not isinstance(outcome, str) or outcome in found.found


def test_a_cuda_build_without_a_driver_is_told_apart_from_versions_that_do_not_fit() -> None:
    def load() -> float:
        try:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file")
        except OSError as error:
            raise OSError("Could not load this library: fbgemm_gpu_py.so") from error

    found = check_lookup("cpu", probes.attempt(load))
    assert "(OSError: libnvidia-ml.so.1: cannot open" in found.found
    assert "needs NVIDIA's driver" in found.advice
    assert "do not fit" in check_lookup("cpu", "OSError: undefined symbol").advice


def test_the_lookup_probe_notices_a_wrong_update(monkeypatch) -> None:
    right = operations.SplitTableBatchedEmbeddingBagsCodegen

    def wrong(specs, *, learning_rate, **options):
        return right(specs, learning_rate=learning_rate / 2, **options)

    assert probes.lookup_error("cpu") == 0
    monkeypatch.setattr(operations, "SplitTableBatchedEmbeddingBagsCodegen", wrong)
    # Row 2 moves by 1 instead of 2.
    assert probes.lookup_error("cpu") == 1


def test_gloo_must_return_the_sum() -> None:
    assert check_gloo(probes.gloo_sum()).level == "ok"
    assert check_gloo(2.0).level == "error"
    assert "no route" in check_gloo("RuntimeError: no route").found


@pytest.mark.parametrize(
    ("available", "gpus", "level"),
    [(False, 0, "ok"), (False, 1, "ok"), (False, 2, "error"), (True, 8, "ok")],
)
def test_nccl_is_needed_by_several_gpus_only(available, gpus, level) -> None:
    assert check_nccl(available, gpus=gpus).level == level


def test_a_small_host_is_warned_about() -> None:
    small = check_host(1, 2 * GIB, 64 << 20)
    assert levels(small) == {"cores": "warning", "memory": "warning", "/dev/shm": "warning"}
    assert all(finding.advice for finding in small)
    assert levels(check_host(16, 128 * GIB, 8 * GIB)) == {"cores": "ok", "memory": "ok"}
    assert levels(check_host(16, 128 * GIB, None)) == {"cores": "ok", "memory": "ok"}


@pytest.mark.parametrize(("free", "level"), [(0.5, "error"), (5, "warning"), (50, "ok")])
def test_little_disk_is_told(free, level) -> None:
    found = check_disk("/data", int(free * GIB))
    assert found.level == level
    assert "/data" in found.found


def test_errors_decide_and_warnings_do_not() -> None:
    fine, warned = Finding("ok", "a", "b"), Finding("warning", "a", "b", "c")
    assert not has_errors([fine, warned])
    assert has_errors([fine, Finding("error", "a", "b", "c")])


def test_findings_are_lined_up_with_advice_below() -> None:
    text = format_findings(
        [Finding("ok", "python", "3.11.7"), Finding("error", "fbgemm build", "wrong", "do this")]
    )
    assert text.splitlines() == [
        "ok       python        3.11.7",
        "error    fbgemm build  wrong",
        "                       -> do this",
        "",
        "1 error, 0 warnings",
    ]


def test_this_machine_runs_a_real_diagnosis() -> None:
    found = by_subject(diagnose())
    assert {"python", "torch", "torchrec", "gloo", "cores", "memory", "disk"} <= set(found)
    assert any(subject.startswith("lookup on") for subject in found)


def test_a_torch_that_does_not_import_is_reported_instead_of_raised(monkeypatch) -> None:
    def devices(_):
        raise OSError("libtorch_cuda.so: cannot open shared object file\nmore")

    monkeypatch.setattr(probes, "devices", devices)
    found = diagnose()
    broken = [finding for finding in found if "libtorch_cuda.so" in finding.found]
    assert [finding.level for finding in broken] == ["error"]
    assert "more" not in broken[0].found
    assert not any(finding.subject == "gloo" for finding in found)


def test_the_doctor_itself_imports_without_torch() -> None:
    code = "import sys, trainer.doctor.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
