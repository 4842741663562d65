"""Packaging of mmakd."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def read(name: str) -> str:
    """Return the text of a file of the project, empty where it is absent."""
    path = ROOT / name
    return path.read_text(encoding='utf-8') if path.exists() else ''


def version() -> str:
    """Return the package's version without importing it."""
    return re.findall(r"__version__ = '(.+)'", read('mmakd/version.py'))[0]


class BuildWithConfigs(build_py):
    """Put configs, scripts and the model index into ``mmakd/.mim``, as OpenMMLab's packages do."""

    def run(self) -> None:
        """Copy them behind the package itself."""
        super().run()
        mim = Path(self.build_lib, 'mmakd', '.mim')
        shutil.rmtree(mim, ignore_errors=True)  # of an earlier build
        for name in 'configs', 'tools':
            shutil.copytree(ROOT / name, mim / name, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'model-index.yml', mim)


setup(
    name='mmakd',
    version=version(),
    description='Avatar Knowledge Distillation for MMDetection and MMSegmentation',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author='The mmakd developers',
    license='Apache-2.0',
    packages=find_packages(include=['mmakd', 'mmakd.*']),
    cmdclass=dict(build_py=BuildWithConfigs),
    entry_points=dict(console_scripts=['mmakd = mmakd.__main__:main']),
    python_requires='>=3.10',
    # Neither torch nor a distribution of mmengine: two distributions provide the same modules, and
    # pip would put one over the other. An extra or the user's own environment brings them.
    install_requires=['typeguard>=4'],
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.8',
            'onedl-mmcv>=2.3',
            'onedl-mmdetection>=3.5',
            'onedl-mmsegmentation>=1.4',
        ],
        'openmmlab': [
            'mmengine>=0.10',
            'mmcv>=2.0.0,<2.2',  # mmdet 3.3 and mmsegmentation 1.2 take no newer one
            'mmdet>=3.3',
            'mmsegmentation>=1.2',
            'ftfy',  # mmsegmentation 1.2 imports these two and does not name them
            'regex',
        ],
        # mmrazor requires ordered-set alone, so it replaces nothing.
        'dev': ['allpairspy', 'hypothesis', 'mmrazor>=1.0', 'mypy', 'onnx', 'onnxruntime',
                'onnxscript', 'pytest', 'pytest-xdist', 'ruff', 'scikit-learn'],
        'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
        'benchmark': ['matplotlib', 'mmrazor>=1.0', 'scikit-image', 'scikit-learn'],
    },
)
