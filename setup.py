"""The one build step that pyproject.toml cannot say: proto/caffe.proto becomes the schema and its types."""

from __future__ import annotations

from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

SCHEMA = "proto/caffe.proto"
COMPILED = "pysolver/proto/caffe.desc"
TYPES = "pysolver/proto/caffe_pb2.pyi"  # what a type checker and an editor know of the messages


class BuildSchema(Command):
    """Compile the schema: into the built package, or in place for `pip install -e .` and when called by hand."""

    description = "compile proto/caffe.proto"
    user_options = [("build-lib=", "d", "folder of the built package; in place without it")]

    def initialize_options(self):
        self.build_lib = ""
        self.editable_mode = False  # set by setuptools for an editable install

    def finalize_options(self):
        building = self.distribution.get_command_obj("build", create=False)
        if building and not self.editable_mode:
            self.build_lib = self.get_finalized_command("build_py").build_lib

    def run(self):
        from grpc_tools import protoc  # not at the top: reading the metadata must work without it

        target, types = Path(self.build_lib, COMPILED), Path(self.build_lib, TYPES)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder, name = SCHEMA.split("/")
        outputs = [f"--descriptor_set_out={target}", f"--pyi_out={types.parent}"]
        if protoc.main(["protoc", f"-I{folder}", *outputs, name]) != 0:
            raise SystemExit(f"{SCHEMA} does not compile")

    def get_source_files(self):
        return [SCHEMA]

    def get_outputs(self):
        return [str(Path(self.build_lib, name)) for name in (COMPILED, TYPES)]

    def get_output_mapping(self):
        return {}


build.sub_commands = [*build.sub_commands, ("build_schema", None)]

setup(cmdclass={"build_schema": BuildSchema})
