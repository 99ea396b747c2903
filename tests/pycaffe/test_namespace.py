"""What `import pysolver as caffe` offers, and what it costs; settings of the thread; small functions."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

import pysolver as caffe

PUBLIC = """
    Net SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL Timer Layer
    Classifier Detector init_log log set_mode_cpu set_mode_gpu set_device set_random_seed get_solver
    layer_type_list solver_count set_solver_count solver_rank set_solver_rank set_multiprocess has_nccl
    __version__ TRAIN TEST io layers params NetSpec to_proto proto classifier detector draw coord_map net_spec
"""


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_names(name):
    assert getattr(caffe, name) is not None
    assert name in dir(caffe)


def test_values():
    assert caffe.__version__ == "1.0.0" and (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.proto.caffe_pb2.NetParameter().name == ""
    with pytest.raises(AttributeError, match="module 'pysolver' has no attribute 'nothing'"):
        caffe.nothing  # noqa: B018


def test_layers_is_the_language_of_netspec_too():
    from pysolver import layers as L
    from pysolver.layers import base

    assert L.base is base
    assert L.Pooling(L.Input(), pool=caffe.params.Pooling.AVE).to_proto().layer[1].type == "Pooling"
    with pytest.raises(AttributeError, match="nothing"):
        L.nothing  # noqa: B018


def test_logs_and_netspec_need_no_torch():
    code = (
        "import sys, pysolver, pysolver.logs, pysolver.pycaffe.run; dir(pysolver); pysolver.pycaffe.run.install();"
        "import caffe, caffe.io, caffe.draw, caffe.coord_map; from caffe import layers as L, params as P;"
        "caffe.NetSpec(), L.Input().to_proto(), P.Pooling.MAX, caffe.TEST, caffe.log('x'), caffe.proto;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_layer_type_list():
    types = caffe.layer_type_list()
    assert types == sorted(types, key=str.encode)
    assert {"Data", "Convolution", "InnerProduct", "Python", "SoftmaxWithLoss"} <= set(types)


class TestMode:
    def in_a_thread(self, function):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(function()))
        thread.start()
        thread.join()
        return seen[0]

    def test_each_thread_has_its_own(self):
        def elsewhere():
            caffe.set_solver_count(4)
            caffe.set_solver_rank(3)
            caffe.set_multiprocess(True)
            return caffe.solver_count(), caffe.solver_rank()

        assert self.in_a_thread(elsewhere) == (4, 3)
        assert (caffe.solver_count(), caffe.solver_rank()) == (1, 0)

    def test_gpu_without_cuda_is_the_cpu_with_one_warning(self, capsys, monkeypatch):
        import torch

        from pysolver.pycaffe import mode

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

        def elsewhere():
            caffe.set_device(3)
            caffe.set_mode_gpu()
            return mode.context().device.type

        assert self.in_a_thread(elsewhere) == "cpu"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("W") and "CUDA" in line

    def test_gpu(self, monkeypatch):
        import torch

        from pysolver.pycaffe import mode

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

        def elsewhere():
            caffe.set_device(3)
            caffe.set_mode_gpu()
            gpu = str(mode.context().device)
            caffe.set_mode_cpu()
            return gpu, str(mode.context().device)

        assert self.in_a_thread(elsewhere) == ("cuda:3", "cpu")

    def test_seed(self, write):
        file = write(
            'input: "x" input_shape { dim: 1 dim: 2 } layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" '
            'inner_product_param { num_output: 9 weight_filler { type: "gaussian" } } }'
        )

        def weights(seed):
            caffe.set_random_seed(seed)
            return caffe.Net(file, caffe.TEST).params["ip"][0].data.tolist()

        assert weights(3) == weights(3) != weights(4)


class TestLog:
    def test_log(self, capsys, monkeypatch):
        monkeypatch.setenv("GLOG_minloglevel", "0")
        caffe.log("hello")
        assert capsys.readouterr().err.endswith("] hello\n")
        caffe.init_log(1)
        caffe.log("hello")
        caffe.init_log(0, False)
        caffe.log("hello")
        assert capsys.readouterr().err == ""
        caffe.init_log(0, True)
        caffe.log("again")
        assert capsys.readouterr().err.startswith("I")


def test_timer():
    timer = caffe.Timer()
    timer.start()
    time.sleep(0.02)
    timer.stop()
    assert 20 <= timer.ms < 2000


def test_nccl():
    assert not caffe.has_nccl()
    for call in (caffe.NCCL.new_uid, lambda: caffe.NCCL(None, b"")):
        with pytest.raises(RuntimeError, match="one device"):
            call()
