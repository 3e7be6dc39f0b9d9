import subprocess
import sys


def test_the_module_of_a_ready_set_stays_small() -> None:
    """What fetches, and what only some sources need, is not imported where a set is just found."""
    code = "import sys, lavatube.weights.provision; print(*(name for name in sys.modules if name in sys.argv[1:]))"
    heavy = ["http.client", "ssl", "lavatube.weights.fetch", "lavatube.weights.staging", "lavatube.weights.archive"]
    heavy += ["tomllib", "pickletools", "tempfile", "lavatube.weights.buckets"]
    run = subprocess.run([sys.executable, "-P", "-c", code, *heavy], check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout.split() == []
