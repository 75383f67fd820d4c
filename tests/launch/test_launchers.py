"""The launchers for clouds and clusters, with programs in place of gcloud, srun and xpk that note
down what they were told.
"""

import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib

import pytest
import yaml

from v2l_jax.training.loop import PREEMPTED_EXIT_CODE

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ("tpu_vm.sh", "xpk.sh", "slurm.sbatch")
RUN = (
    "--config=configs/quickstart.py",
    "--workdir=/mnt/v2l/run",
    "--config.jobs=('train', \"report\")",
    "--config.llm=a b;$c",
)
VM = ("--name=v2l", "--zone=us-central2-b")
TPU = ("run", *VM, "--type=v4-16", "--nfs=10.0.0.2:/share", "--", *RUN)
XPK = (
    "--workload=v2l",
    "--cluster=c",
    "--tpu-type=v5litepod-16",
    "--docker-image=image:1",
    "--storage=s",
    "--",
    *RUN,
)
NOTE = (
    'line=$(basename "$0")\nfor a in "$@"; do line+=$\'\\x1f\'$a; done\nprintf "%s\\n" '
    '"${line//$\'\\n\'/ }" >>"$FAKES/calls"\n'
)
FAKES = {
    # A VM of two hosts, folders here. `state` is what the VM's state will be; a line of
    # `next_states` replaces it at each look.
    "gcloud": """
        case "$3 $4" in
          "tpu-vm describe" | "queued-resources describe")
            if [ -s "$FAKES/next_states" ]; then
              head -n 1 "$FAKES/next_states" >"$FAKES/state"; sed -i 1d "$FAKES/next_states"
            fi
            [ "$(cat "$FAKES/state" 2>/dev/null)" != NONE ] && cat "$FAKES/state" 2>/dev/null ;;
          "tpu-vm create" | "queued-resources create")
            rm -rf "$FAKES"/host?; mkdir "$FAKES/host0" "$FAKES/host1"
            echo READY >"$FAKES/state" ;;
          "tpu-vm delete" | "queued-resources delete") rm "$FAKES/state" ;;
          "tpu-vm scp" | "tpu-vm ssh")
            code=0
            hosts="host0"
            [[ " $* " != *" --worker=all "* ]] || hosts="host0 host1"
            for host in $hosts; do
              if [ "$4" = scp ]; then cp "$5" "$FAKES/$host/"; continue; fi
              for a in "$@"; do case $a in --command=*) remote=${a#*=} ;; esac; done
              (cd "$FAKES/$host" && HOST=$host bash -c "$remote") ||
                { ended=$?; [ "$code" -ne 0 ] || code=$ended; }
            done
            exit "$code" ;;
        esac""",
    "mountpoint": "exit 1",
    "sudo": "",
    "curl": 'echo "mkdir -p .local/bin && cp $FAKES/bin/uv .local/bin/"',
    "uv": '[ "$1" = pip ] || { mkdir -p v2l_venv/bin && cp "$FAKES/bin/python" v2l_venv/bin/; }',
    # The first host takes a line off `ends`: how the run ends, and perhaps what becomes of the VM.
    "python": """
        printf '%s\\n' "$HOST|$(basename "$PWD")|$XDG_CACHE_HOME" >>"$FAKES/started"
        if [ "$HOST" = host0 ]; then
          head -n 1 "$FAKES/ends" >"$FAKES/end"; sed -i 1d "$FAKES/ends"
        fi
        read -r code state <"$FAKES/end"
        [ -z "$state" ] || echo "$state" >"$FAKES/state"
        exit "$code" """,
    "srun": 'exit "$(cat "$FAKES/ends")"',
    "scontrol": "",
    "xpk": "",
}


class Cluster:
    """The programs in place of a cloud's, and what they were told by launchers in a checkout."""

    def __init__(self, folder, checkout):
        self.fakes, self.checkout = folder / "fakes", checkout
        (self.fakes / "bin").mkdir(parents=True)
        for name, body in FAKES.items():
            path = self.fakes / "bin" / name
            path.write_text(f"#!/usr/bin/env bash\n{NOTE}{body}\n")
            path.chmod(0o755)

    def write(self, name, *lines):
        (self.fakes / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, script, *arguments, cwd=None, **environment):
        path = f"{self.fakes / 'bin'}:{os.environ['PATH']}"
        environment = (
            os.environ
            | {"PATH": path, "FAKES": str(self.fakes), "V2L_WAIT_SECONDS": "0"}
            | environment
        )
        command = ["bash", str(self.checkout / "launch" / script), *arguments]
        return subprocess.run(
            command,
            cwd=cwd or self.checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def calls(self, program):
        path = self.fakes / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("\x1f")[1:] for line in lines if line.split("\x1f")[0] == program]

    def verbs(self):
        """What gcloud was told, but for looks at the state."""
        return [" ".join(call[2:4]) for call in self.calls("gcloud") if call[3] != "describe"]

    def started(self):
        return (
            (self.fakes / "started").read_text().splitlines()
            if (self.fakes / "started").exists()
            else []
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The launchers and a config, committed."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in (
        "launch/lib.sh",
        *(f"launch/{script}" for script in SCRIPTS),
        "configs/quickstart.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def cluster(tmp_path, checkout):
    return Cluster(tmp_path, checkout)


ROUND = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]  # the checkout, what it needs, the run
ON_BOTH = ["host0|v2l_jax|/mnt/v2l/cache", "host1|v2l_jax|/mnt/v2l/cache"]


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    scripts = sorted(
        str(path.relative_to(ROOT))
        for pattern in ("*.sh", "*.sbatch")
        for path in (ROOT / "launch").glob(pattern)
    )
    assert {f"launch/{script}" for script in SCRIPTS} <= set(scripts)
    found = subprocess.run(
        [shellcheck, "--external-sources", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_top(cluster, script):
    found = cluster.run(script, "--help")
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("Runs a config ") and f"launch/{script}" in found.stdout
    assert "143" in found.stdout and "#" not in found.stdout and "pipefail" not in found.stdout


@pytest.mark.parametrize(
    "script, arguments, says",
    [
        ("tpu_vm.sh", ["start"], "not understood: start"),
        ("tpu_vm.sh", ["delete", "--name=v2l"], "--zone is missing"),
        ("tpu_vm.sh", ["run", *VM, "--nfs=s:/d"], "--type is missing"),
        ("tpu_vm.sh", ["run", *VM, "--type=v4-8"], "--nfs is missing"),
        ("tpu_vm.sh", ["run", *VM, "--typo=v4-8"], "not understood: --typo=v4-8"),
        ("tpu_vm.sh", [*TPU[:-4], *RUN[1:]], "--config=FILE, for the run, is missing"),
        ("tpu_vm.sh", [*TPU[:-4], "--config=configs/none.py"], "no config file configs/none.py"),
        ("tpu_vm.sh", [*TPU[:-4], RUN[0]], "--workdir=FOLDER, for the run, is missing"),
        ("tpu_vm.sh", [*TPU[:-4], RUN[0], "--workdir=s3://bucket/run"], "of buckets only gs://"),
        ("tpu_vm.sh", [*TPU[:-4], RUN[0], "--workdir=runs/a"], "must lie in /mnt/v2l/"),
        ("xpk.sh", [*XPK[1:]], "--workload=... is missing"),
        ("xpk.sh", [*XPK[:4], *XPK[5:]], "--storage=... is missing"),
        ("xpk.sh", [*XPK[:6], RUN[0], "--workdir=s3://bucket/run"], "of buckets only gs://"),
        ("slurm.sbatch", [RUN[0], "--workdir=runs/a"], "must lie in /"),
        ("slurm.sbatch", [RUN[0], RUN[1]], "no .venv/bin/python"),
    ],
)
def test_a_missing_setting_is_one_line_before_anything_happens(cluster, script, arguments, says):
    found = cluster.run(
        script, *arguments, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(cluster.checkout)
    )
    assert found.returncode == 2
    assert (
        found.stderr.startswith("error: ")
        and says in found.stderr
        and found.stderr.count("\n") == 1
    )
    assert not any(cluster.calls(program) for program in ("gcloud", "xpk", "srun"))


def test_slurm_script_is_submitted_not_run(cluster):
    assert "submit it" in cluster.run("slurm.sbatch", *RUN).stderr


def test_tpu_vm_is_created_and_every_host_runs_the_command(cluster):
    cluster.write("ends", "0")
    found = cluster.run("tpu_vm.sh", *TPU, cwd=cluster.fakes)
    assert found.returncode == 0 and "ended with" not in found.stderr, found.stderr
    assert cluster.verbs() == ["tpu-vm create", *ROUND]
    assert {
        "v2l",
        "--zone=us-central2-b",
        "--accelerator-type=v4-16",
        "--version=tpu-ubuntu2204-base",
    } <= set(cluster.calls("gcloud")[1])
    assert "--spot" not in cluster.calls("gcloud")[1]
    assert cluster.started() == ON_BOTH
    assert cluster.calls("python") == 2 * [["-m", "v2l_jax.main", "--distributed", *RUN]]
    assert cluster.calls("sudo").count(["mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/v2l"]) == 2
    assert (cluster.fakes / "host1" / "v2l_jax" / "configs" / "quickstart.py").is_file()
    assert [call[0] for call in cluster.calls("uv")] == 2 * ["venv", "pip"]


def test_tpu_vm_that_is_there_is_used_and_preempted_run_starts_again(cluster):
    cluster.write("ends", "143", "143", "0")
    cluster.write("state", "READY")
    for host in ("host0", "host1"):
        (cluster.fakes / host).mkdir()
    found = cluster.run("tpu_vm.sh", *TPU)
    assert found.returncode == 0, found.stderr
    assert PREEMPTED_EXIT_CODE == 143
    assert cluster.verbs() == 3 * ROUND
    assert cluster.started() == 3 * ON_BOTH


@pytest.mark.parametrize("code", [1, 134, 255])
def test_tpu_vm_another_failure_ends_it_with_its_code(cluster, code):
    cluster.write("ends", code, "0")
    assert cluster.run("tpu_vm.sh", *TPU).returncode == code
    assert cluster.started() == ON_BOTH


@pytest.mark.parametrize("code", [143, 255])
def test_preempted_tpu_vm_is_created_anew(cluster, code):
    cluster.write("ends", f"{code} PREEMPTED", "0")
    found = cluster.run("tpu_vm.sh", *TPU[:5], "--spot", *TPU[5:])
    assert found.returncode == 0, found.stderr
    assert cluster.verbs() == ["tpu-vm create", *ROUND, "tpu-vm delete", "tpu-vm create", *ROUND]
    assert sum("--spot" in call for call in cluster.calls("gcloud")) == 2
    assert cluster.started() == 2 * ON_BOTH


def test_tpu_vm_that_was_deleted_stays_so(cluster):
    cluster.write("ends", "255 NONE", "0")
    found = cluster.run("tpu_vm.sh", *TPU)
    assert found.returncode == 2 and "error: v2l is no longer there" in found.stderr
    assert cluster.verbs().count("tpu-vm create") == 1


def test_queued_resource_is_waited_for_and_asked_for_again(cluster):
    cluster.write("ends", "143 SUSPENDING", "0")
    cluster.write(
        "next_states",
        "NONE",
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
        "SUSPENDING",
        "SUSPENDING",
        "SUSPENDED",
        "NONE",
        "ACTIVE",
    )
    found = cluster.run(
        "tpu_vm.sh", *TPU[:3], "--type=v5litepod-16", "--queued", "--spot", *TPU[4:]
    )
    assert found.returncode == 0, found.stderr
    asked = ["queued-resources create", "queued-resources delete", "queued-resources create"]
    assert [verb for verb in cluster.verbs() if verb.startswith("queued")] == asked
    created = next(call for call in cluster.calls("gcloud") if call[3] == "create")
    assert {
        "--node-id=v2l",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    } <= set(created)
    assert "--force" in next(call for call in cluster.calls("gcloud") if call[3] == "delete")
    assert cluster.started() == 2 * ON_BOTH


def test_queued_resource_that_failed_is_not_asked_for_again(cluster):
    cluster.write("next_states", "NONE", "FAILED")
    found = cluster.run("tpu_vm.sh", *TPU[:5], "--queued", *TPU[5:])
    assert found.returncode == 2 and "error: the request for v2l failed" in found.stderr
    assert cluster.verbs() == ["queued-resources create"]


def test_tpu_vm_delete(cluster):
    cluster.write("state", "READY")
    assert cluster.run("tpu_vm.sh", "delete", *VM).returncode == 0
    assert cluster.verbs() == ["tpu-vm delete"] and "--quiet" in cluster.calls("gcloud")[0]
    cluster.write("state", "ACTIVE")
    assert cluster.run("tpu_vm.sh", "delete", *VM, "--queued").returncode == 0
    assert cluster.verbs()[1:] == ["queued-resources delete"]


@pytest.mark.parametrize("code, requeued", [(0, False), (1, False), (134, False), (143, True)])
def test_slurm_puts_a_preempted_job_back_into_the_queue(cluster, tmp_path, code, requeued):
    cluster.write("ends", code)
    installed = shutil.copytree(cluster.checkout, tmp_path / "installed")
    (installed / ".venv" / "bin").mkdir(parents=True)
    (installed / ".venv" / "bin" / "python").touch(0o755)
    copy = shutil.copy(ROOT / "launch" / "slurm.sbatch", tmp_path / "slurm_script")  # as Slurm does
    found = cluster.run(copy, *RUN, cwd=tmp_path, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(installed))
    assert found.returncode == code, found.stderr
    (started,) = cluster.calls("srun")
    assert started[3:] == [".venv/bin/python", "-m", "v2l_jax.main", "--distributed", *RUN]
    assert set(started[:3]) == {"--gpu-bind=none", "--cpu-bind=none", "--kill-on-bad-exit=0"}
    assert cluster.calls("scontrol") == ([["requeue", "incomplete", "7"]] if requeued else [])


def test_slurm_settings_come_first_and_tell_the_processes_in_time():
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    first_command = next(
        number for number, line in enumerate(lines) if line and not line.startswith("#")
    )
    settings = {
        number: line.removeprefix("#SBATCH --")
        for number, line in enumerate(lines)
        if line.startswith("#SBATCH")
    }
    assert max(settings) < first_command  # Slurm reads no further
    values = dict(setting.partition("=")[::2] for setting in settings.values())
    assert values["ntasks-per-node"] == values["gpus-per-node"]  # a process a GPU, as JAX counts on
    assert "gpus-per-task" not in values and {"requeue", "exclusive"} <= set(values)
    assert re.fullmatch(
        r"TERM@\d+", values["signal"]
    )  # with B: the batch script alone would get it


def test_xpk_workload_gets_options_and_command(cluster):
    found = cluster.run("xpk.sh", *XPK[:5], "--project=p", "--max-restarts=9", *XPK[5:])
    assert found.returncode == 0, found.stderr
    (call,) = cluster.calls("xpk")
    assert call[:2] == ["workload", "create"] and set(XPK[:5]) <= set(call)
    assert [option for option in call if option.startswith("--max-restarts")][
        -1
    ] == "--max-restarts=9"
    assert call[-1].startswith("--command=cd /v2l_jax && exec python ")
    assert shlex.split(call[-1])[5:] == ["-m", "v2l_jax.main", "--distributed", *RUN]


def test_xpk_fails_as_xpk_does(cluster):
    (cluster.fakes / "bin" / "xpk").write_text("#!/bin/sh\nexit 3\n")
    assert cluster.run("xpk.sh", *XPK).returncode == 3


class Optional:
    """A field that may be left out."""

    def __init__(self, schema):
        self.schema = schema


RULE = {
    "action": ("FailJob",),
    "onExitCodes": Optional({"containerName": str, "operator": ("In", "NotIn"), "values": [int]}),
    "onPodConditions": Optional([{"type": str, "status": ("True",)}]),
}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "securityContext": {"privileged": bool},
    "resources": {"limits": {"google.com/tpu": int}},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "restartPolicy": ("Never",),  # Kubernetes wants it so where there is a podFailurePolicy
    "terminationGracePeriodSeconds": int,
    "hostNetwork": bool,
    "dnsPolicy": ("ClusterFirstWithHostNet",),
    "nodeSelector": {
        "cloud.google.com/gke-tpu-accelerator": str,
        "cloud.google.com/gke-tpu-topology": str,
    },
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "nfs": Optional({"server": str, "path": str}),
            "emptyDir": Optional({"medium": ("Memory",)}),
        }
    ],
}
JOB = {
    "parallelism": int,
    "completions": int,
    "completionMode": ("Indexed",),
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [RULE]},
    "template": {"spec": POD},
}
FAILURE_RULE = {
    "name": str,
    "action": ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    "onJobFailureReasons": [
        (
            "BackoffLimitExceeded",
            "DeadlineExceeded",
            "FailedIndexes",
            "MaxFailedIndexesExceeded",
            "PodFailurePolicy",
        )
    ],
}
JOBSET = {  # of jobset.x-k8s.io/v1alpha2 what launch/gke_jobset.yaml uses
    "apiVersion": ("jobset.x-k8s.io/v1alpha2",),
    "kind": ("JobSet",),
    "metadata": {
        "name": str,
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": ("cloud.google.com/gke-nodepool",)
        },
    },
    "spec": {
        "failurePolicy": {"maxRestarts": int, "rules": [FAILURE_RULE]},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def misfits(value, schema, where="jobset"):
    """Where a value does not have the fields and types of a schema."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where} is no mapping"]
        found = [f"{where}.{name} is not known" for name in value.keys() - schema.keys()]
        for name, inner in schema.items():
            optional, inner = isinstance(inner, Optional), getattr(inner, "schema", inner)
            if name in value:
                found += misfits(value[name], inner, f"{where}.{name}")
            elif not optional:
                found.append(f"{where}.{name} is missing")
        return found
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return [f"{where} is no list, or empty"]
        return [
            misfit
            for i, item in enumerate(value)
            for misfit in misfits(item, schema[0], f"{where}[{i}]")
        ]
    if isinstance(schema, tuple):
        return [] if value in schema else [f"{where} is {value!r}, not one of {schema}"]
    return [] if type(value) is schema else [f"{where} is {value!r}, no {schema.__name__}"]


@pytest.fixture
def jobset():
    return yaml.safe_load((ROOT / "launch" / "gke_jobset.yaml").read_text())


def test_jobset_has_the_fields_of_its_kind(jobset):
    assert misfits(jobset, JOBSET) == []
    jobset["spec"]["failurePolicy"]["maxRestart"] = jobset["spec"]["failurePolicy"].pop(
        "maxRestarts"
    )
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] = "4"
    assert len(misfits(jobset, JOBSET)) == 3


def test_jobset_starts_again_what_was_preempted_and_little_else(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes, disruption = job["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"] == {
        "containerName": job["template"]["spec"]["containers"][0]["name"],
        "operator": "In",
        "values": [PREEMPTED_EXIT_CODE],
    }
    assert [condition["type"] for condition in disruption["onPodConditions"]] == [
        "DisruptionTarget"
    ]
    policy = jobset["spec"]["failurePolicy"]
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    ]
    assert 0 < policy["maxRestarts"] <= 10 and job["backoffLimit"] == 0


def test_jobset_fills_the_slice_and_runs_the_config_on_the_share(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    assert (
        job["parallelism"]
        == job["completions"]
        == chips // container["resources"]["limits"]["google.com/tpu"]
    )
    assert container["command"] == ["python", "-m", "v2l_jax.main", "--distributed"]
    values = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert (ROOT / values["config"]).is_file()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert values["workdir"].startswith(mounts["share"] + "/")
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}


def test_image_installs_an_extra_that_there_is_on_a_python_that_will_do():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        re.search(r"^ARG EXTRA=(\w+)$", text, re.MULTILINE)[1] in project["optional-dependencies"]
    )
    assert (
        f">={re.search(r'^FROM python:([0-9.]+)-slim$', text, re.MULTILINE)[1]}"
        == project["requires-python"]
    )
    assert "WORKDIR /v2l_jax\n" in text and "XDG_CACHE_HOME=/mnt/v2l/cache" in text
