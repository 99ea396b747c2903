"""Scripts whose `import caffe` is pysolver."""

from __future__ import annotations

import subprocess
import sys

from pysolver.commands import main

CHECK = """
import sys, subprocess
import caffe, caffe.io, caffe.draw
import caffe.proto.caffe_pb2 as pb2
from caffe import layers as L, params as P
from caffe.coord_map import crop
from caffe.classifier import Classifier
import pysolver.pycaffe.io, pysolver.proto.caffe_pb2
assert caffe.io is pysolver.pycaffe.io and pb2 is pysolver.proto.caffe_pb2 is caffe.proto.caffe_pb2
assert caffe.Classifier is Classifier and issubclass(Classifier, caffe.Net)
assert pysolver.pycaffe.io.__spec__.name == "pysolver.pycaffe.io"
assert __name__ == "__main__"
try:
    import caffe.nothing
except ModuleNotFoundError as error:
    assert str(error) == "No module named 'caffe.nothing'"
subprocess.run([sys.executable, "-c", "import caffe.io; assert caffe.__version__ == '1.0.0'"], check=True)
print(*sys.argv[1:])
"""


def _run(*args, cwd=None):
    return subprocess.run([sys.executable, "-m", "pysolver", "run", *args], capture_output=True, text=True, cwd=cwd)


def test_script(tmp_path):
    (tmp_path / "script.py").write_text(CHECK + "import beside")
    (tmp_path / "beside.py").write_text("")
    done = _run(str(tmp_path / "script.py"), "a", "--flag=1")
    assert (done.returncode, done.stdout) == (0, "a --flag=1\n"), done.stderr


def test_module_and_command(tmp_path):
    (tmp_path / "own.py").write_text(CHECK)
    done = _run("-m", "own", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "x\n"), done.stderr
    done = _run("-c", "import caffe, sys; print(caffe.TEST, *sys.argv)", "y")
    assert (done.returncode, done.stdout) == (0, "1 -c y\n"), done.stderr


def test_pytest(tmp_path):
    (tmp_path / "test_it.py").write_text("import caffe\n\ndef test(): assert caffe.TRAIN == 0\n")
    done = _run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout


def test_exit_status(tmp_path):
    (tmp_path / "script.py").write_text("raise SystemExit(7)")
    assert _run(str(tmp_path / "script.py")).returncode == 7
    assert _run("-m").returncode == 2


def test_python_layer_of_the_script(tmp_path):
    """The module of a Python layer beside the script, subclassing caffe.Layer."""
    (tmp_path / "twice.py").write_text(
        "import caffe\n"
        "class Twice(caffe.Layer):\n"
        "    def setup(self, bottom, top): self.factor = float(self.param_str)\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = self.factor * bottom[0].data\n"
        "    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = self.factor * top[0].diff\n"
    )
    (tmp_path / "net.prototxt").write_text(
        "force_backward: true input: 'x' input_shape { dim: 2 } layer { name: 'l' type: 'Python' bottom: 'x' top: 'y' "
        "python_param { module: 'twice' layer: 'Twice' param_str: '2' } }"
    )
    (tmp_path / "script.py").write_text(
        "import caffe, numpy as np, os\n"
        "net = caffe.Net(os.path.join(os.path.dirname(__file__), 'net.prototxt'), caffe.TRAIN)\n"
        "print(net.forward(x=np.array([1, 2]))['y'])\n"
        "net.layers[1].factor = 3\n"  # the layer is the user's own object
        "print(net.forward(x=np.array([1, 2]))['y'], net.backward(y=np.array([1, 1]))['x'], net.layers[1].type)\n"
    )
    done = _run(str(tmp_path / "script.py"))
    assert done.stdout == "[2. 4.]\n[3. 6.] [3. 3.] Python\n", done.stderr


def test_a_script_that_is_not_there(tmp_path, capsys):
    assert main(["run", str(tmp_path / "nope.py")]) == 1
    assert capsys.readouterr().err == f"pysolver: {tmp_path / 'nope.py'}: file not found\n"


def test_a_python_layer_that_imports_caffe_in_the_command(tmp_path):
    """As every Python layer written for Caffe does."""
    (tmp_path / "layers.py").write_text(
        "import caffe\n\n\nclass Sum(caffe.Layer):\n    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(1)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data.sum()\n"
    )
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 5 } data_filler { value: 2 }}}\n'
        'layer { name: "s" type: "Python" bottom: "x" top: "s" python_param { module: "layers" layer: "Sum" } }\n'
    )
    code = "import pysolver.commands, sys; sys.path.insert(0, '.'); sys.exit(pysolver.commands.main(sys.argv[1:]))"
    (tmp_path / "w.caffemodel").write_bytes(b"\n\x01n")
    arguments = ["test", "--model=net.prototxt", "--weights=w.caffemodel", "--iterations=1", "--allow-python-layers"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "s = 10" in done.stderr, done.stderr
