"""Programs that read what gfxplane writes. They are installed below target/consumers, once."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
MADE = TOP / "target/consumers"


def run(*command, **options):
    """Returns what a program prints, and ends everything if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{command[0]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def install(name, how):
    """Makes target/consumers/NAME by how(DIRECTORY), unless it is there whole."""
    place = MADE / name
    if not (place / ".whole").exists():
        run("rm", "-rf", place)
        place.mkdir(parents=True)
        how(place)
        (place / ".whole").touch()
    return place


def debian(*packages):
    """Installs packages of Debian without their dependencies."""
    def how(place):
        run("apt-get", "download", *packages, cwd=place)
        for package in place.glob("*.deb"):
            run("dpkg-deb", "-x", package, place)
            package.unlink()

    return how


def pypi(*packages):
    """Makes a virtual environment of Python with packages of PyPI."""
    def how(place):
        run(sys.executable, "-m", "venv", place)
        run(place / "bin/pip", "install", "--quiet", *packages)

    return how
