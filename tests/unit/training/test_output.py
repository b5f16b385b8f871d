import os
import subprocess
import sys
import threading

LASTING = "from genesis_ds.supervision.output import keep_output_from_failing; keep_output_from_failing();"


def python(code, **streams):
    return subprocess.run([sys.executable, "-c", LASTING + code], check=False, timeout=60, **streams)


def test_a_pipe_whose_reader_is_gone_takes_everything_in_every_thread():
    reader, writer = os.pipe()
    os.close(reader)
    code = """
import sys, threading, traceback
def both():
    for n in range(2000):
        print("a line", n)
        print("a line", n, file=sys.stderr, flush=True)
threads = [threading.Thread(target=both) for _ in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]

sys.exit(7)
"""
    assert python(code, stdout=writer, stderr=writer).returncode == 7
    os.close(writer)


def test_a_full_disk_and_a_terminal_without_a_letter_lose_text_and_nothing_else():
    with open("/dev/full", "w") as full:
        assert python("print('x' * 10**5); print('y', flush=True)", stdout=full).returncode == 0
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = python("print('태초에', 'in the beginning')", stdout=-1, env=ascii_only)
    assert done.stdout == rb"\ud0dc\ucd08\uc5d0 in the beginning" + b"\n"


def test_a_pipe_that_does_not_block_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = []

    def read():
        while block := os.read(reader, 2**12):
            received.append(block)

    thread = threading.Thread(target=read)
    process = subprocess.Popen([sys.executable, "-c", LASTING + "print('x' * 10**6)"], stdout=writer)
    os.close(writer)
    thread.start()
    assert process.wait(60) == 0
    thread.join(60)
    assert sum(map(len, received)) == 10**6 + 1
