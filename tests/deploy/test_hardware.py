from pathlib import Path

from prune_tool.deploy.hardware import read_hardware, throttle_events

CPU = "sys/devices/system/cpu"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_a_machine_that_says_everything(tmp_path):
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": "processor : 0\nmodel name : Abacus 9000\n",
            f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave",
            f"{CPU}/cpu1/cpufreq/scaling_governor": "performance",
            f"{CPU}/intel_pstate/no_turbo": "1",
            f"{CPU}/smt/active": "1",
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "4",
            "sys/fs/cgroup/cpu.max": "150000 100000",
            "proc/driver/nvidia/gpus/0/information": "Model: \t NVIDIA H100\nIRQ: 5",
        },
    )
    found = read_hardware(root)
    assert found.cpu == "Abacus 9000"
    assert found.governors == ("performance", "powersave")
    assert (found.turbo, found.smt, found.cpu_quota) == (False, True, 1.5)
    assert found.gpus == ("NVIDIA H100",)
    assert throttle_events(root) == 7


def test_other_drivers_say_it_otherwise(tmp_path):
    root = write(tmp_path, {f"{CPU}/cpufreq/boost": "1", "sys/fs/cgroup/cpu.max": "max 100000"})
    found = read_hardware(root)
    assert (found.turbo, found.cpu_quota) == (True, None)


def test_a_machine_that_says_nothing(tmp_path):
    found = read_hardware(tmp_path)
    assert (found.turbo, found.smt, found.cpu_quota, found.governors, found.gpus) == (None, None, None, (), ())
    assert found.n_cores >= found.n_usable_cores >= 1
    assert throttle_events(tmp_path) is None
