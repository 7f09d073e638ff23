"""Check what the TensorRT back-end uses against NVIDIA's own bindings, without a GPU and without TensorRT.

The wheels of the bindings hold the extension module but not the libraries below it. Of those it wants nine functions,
which a library of a few lines provides: then it imports, and every class, method, argument and member can be read.
From that, and from the bindings of CUDA, stubs are written; mypy runs over the back-end with each.

The wheels are NVIDIA's, under NVIDIA's licence. They are installed into a temporary folder and nothing of them is kept.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
import contextlib
import importlib
import inspect
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
from types import ModuleType
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
TENSORRT_VERSIONS = ('10.16.1.11', '11.4.0.106')
CUDA_VERSIONS = ('12.9.7', '13.5.0')
CHECKED = tuple(
    ROOT / 'fisa_ros' / 'runtime' / name for name in ('tensorrt_engine.py', 'cuda_memory.py', 'tensorrt_backend.py')
)
NO_INDEX = 3
LIBRARIES = ('nvinfer', 'nvinfer_plugin', 'nvonnxparser')
LIBRARY_SOURCE = '\n'.join(
    f'void *{name}(void) {{ return 0; }}'
    for name in (
        'createInferBuilder_INTERNAL', 'createInferRuntime_INTERNAL', 'createInferRefitter_INTERNAL',
        'createNvOnnxParser_INTERNAL', 'createNvOnnxParserRefitter_INTERNAL', 'getBuilderPluginRegistry',
        'getPluginRegistry', 'getNvOnnxParserVersion', 'initLibNvInferPlugins',
    )
)  # fmt: skip
STUB_HEAD = (
    '# mypy: ignore-errors\nimport collections.abc\nimport typing\nfrom typing import Any, ClassVar, Self, overload\n'
)
# C++ types that the bindings forgot to translate.
UNTRANSLATED = {'nvonnxparser::IParserError': 'tensorrt.tensorrt.ParserError'}
# Returned by value; every other object comes as None when TensorRT could not make it.
VALUES = ('Dims', 'Weights')


class NoIndexError(Exception):
    """The package index cannot be reached."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'files', nargs='*', type=Path, default=CHECKED, help='modules to check; the back-end by default'
    )
    parser.add_argument('--work', type=Path, help='folder for wheels and stubs; a temporary one by default')
    parser.add_argument('--exercise', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--inspect', nargs=2, metavar=('LIBRARY', 'STUBS'), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.exercise:
        return exercise()
    if options.inspect:
        return inspect_library(options.inspect[0], Path(options.inspect[1]), options.files)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='tensorrt_api_')))
        try:
            pairs = list(zip(TENSORRT_VERSIONS, CUDA_VERSIONS, strict=True))
            problems = [problem for pair in pairs for problem in check(work, *pair, options.files)]
        except NoIndexError as error:
            print(f'the package index cannot be reached: {error}')
            return NO_INDEX
    print('\n'.join(problems) or f'{len(options.files)} modules fit TensorRT {" and ".join(TENSORRT_VERSIONS)}')
    return 1 if problems else 0


def check(work: Path, tensorrt_version: str, cuda_version: str, files: Sequence[Path]) -> Iterator[str]:
    """Yield what does not fit one version of TensorRT and one of CUDA."""
    label = f'TensorRT {tensorrt_version}, CUDA bindings {cuda_version}'
    stubs = work / f'stubs-{tensorrt_version}'
    wheels = install(work / f'tensorrt-{tensorrt_version}', f'tensorrt-cu13-bindings=={tensorrt_version}')
    (wheels / 'tensorrt').unlink(missing_ok=True)
    (wheels / 'tensorrt').symlink_to('tensorrt_bindings')
    libraries = compile_libraries(work / f'libraries-{tensorrt_version}', tensorrt_version.partition('.')[0])
    cuda = install(work / f'cuda-{cuda_version}', f'cuda-bindings=={cuda_version}', 'cuda-pathfinder')
    for library, path in (('tensorrt', wheels), ('cuda.bindings.runtime', cuda)):
        command = [sys.executable, str(Path(__file__)), '--inspect', library, str(stubs), *map(str, files)]
        environment = {**os.environ, 'PYTHONPATH': str(path), 'LD_LIBRARY_PATH': str(libraries)}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise RuntimeError(f'{library} cannot be inspected: {finished.stderr}')
        told = json.loads(finished.stdout.splitlines()[-1])
        print(f'{label}: {told["entries"]} entries of {library} read, {len(told["used"])} names used by the back-end')
        yield from (f'{label}: {library} has no {name}' for name in told['missing'])
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(wheels), str(cuda), str(ROOT)]),
        'LD_LIBRARY_PATH': str(libraries),
    }
    command = [sys.executable, str(Path(__file__)), '--exercise']
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        yield f'{label}: {finished.stderr}'
    command = [sys.executable, '-m', 'mypy', '--config-file', str(ROOT / 'pyproject.toml')]
    command += ['--cache-dir', str(work / 'mypy'), '--no-error-summary', *map(str, files)]
    environment = {**os.environ, 'MYPYPATH': f'{stubs}{os.pathsep}{ROOT}'}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        yield from (f'{label}: {line}' for line in (finished.stdout + finished.stderr).splitlines())


def install(folder: Path, *packages: str) -> Path:
    if not folder.exists():
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary=:all:']
        command += ['--disable-pip-version-check', '--retries', '1', '--target', str(folder), *packages]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise NoIndexError(finished.stderr.strip().splitlines()[-1])
    return folder


def compile_libraries(folder: Path, major: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / 'library.c'
    source.write_text(LIBRARY_SOURCE + '\n', encoding='utf-8')
    for name in LIBRARIES:
        file = f'lib{name}.so.{major}'
        command = ['cc', '-shared', '-fPIC', f'-Wl,-soname,{file}', '-o', str(folder / file), str(source)]
        subprocess.run(command, check=True)
    return folder


def inspect_library(name: str, stubs: Path, files: Sequence[Path]) -> int:
    """Write stubs of a library that can be imported here, and tell which names of it the files use."""
    module = __import__(name, fromlist=['*'])
    lines = tensorrt_stub(module) if name == 'tensorrt' else cuda_stub(module)
    folder = stubs.joinpath(*name.split('.')[:-1]) if '.' in name else stubs / name
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.relative_to(stubs).parents:
        if parent != Path():
            (stubs / parent / '__init__.pyi').touch()
    (folder / '__init__.pyi').touch()
    stub = folder / (f'{name.rpartition(".")[2]}.pyi' if '.' in name else '__init__.pyi')
    stub.write_text(STUB_HEAD + '\n'.join(lines) + '\n', encoding='utf-8')
    used = sorted({chain for file in files for chain in used_names(file.read_text(encoding='utf-8'), name)})
    missing = [chain for chain in used if not exists(module, chain)]
    print(json.dumps({'entries': len(lines), 'used': used, 'missing': missing}))
    return 0


def exercise() -> int:
    """Run what can be run of the back-end on the real bindings: classes derived from theirs, and the first failure."""
    from fisa_ros.core.errors import EngineError
    from fisa_ros.runtime import tensorrt_engine

    logger = tensorrt_engine._shared_logger()
    for severity in importlib.import_module('tensorrt').ILogger.Severity.__members__.values():
        logger.log(severity, str(severity))
    assert logger.errors == ['Severity.INTERNAL_ERROR', 'Severity.ERROR'], logger.errors
    for is_cancelled in (False, True):
        monitor = tensorrt_engine._make_monitor(lambda is_cancelled=is_cancelled: is_cancelled)
        monitor.phase_start('building', None, 1)
        assert monitor.step_complete('building', 0) is not is_cancelled
        monitor.phase_finish('building')
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, 'engine.plan')
        plan.write_bytes(b'plan')
        # The libraries below the bindings make no runtime, as where there is no GPU.
        text = 'nothing'
        try:
            tensorrt_engine.TensorRtEngine(plan)
        except EngineError as error:
            text = str(error)
        assert text.startswith('TensorRT cannot start: '), text
    return 0


def used_names(source: str, library: str) -> Iterator[str]:
    """Yield each dotted name that is taken from a library, without the name under which it is imported."""
    tree = ast.parse(source)
    package, _, last = library.rpartition('.')
    aliases = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {entry.asname or entry.name for entry in node.names if entry.name == library}
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            aliases |= {entry.asname or entry.name for entry in node.names if entry.name == last}
    for node in ast.walk(tree):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id in aliases:
            yield '.'.join(chain)


def exists(module: ModuleType, chain: str) -> bool:
    found: Any = module
    for name in chain.split('.'):
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def tensorrt_stub(module: ModuleType) -> list[str]:
    """Return the lines of a stub of bindings made by pybind11, read from docstrings."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type) and name.isidentifier()}
    lines = ['__version__: str']
    for name, value in classes.items():
        lines += class_stub(name, value, classes, '')
    for name, value in vars(module).items():
        if callable(value) and not isinstance(value, type) and not name.startswith('_'):
            lines += function_stub(name, value.__doc__ or '', classes, '')
    return lines


def class_stub(name: str, value: type, classes: dict[str, type], indent: str) -> list[str]:
    bases = [base.__name__ for base in value.__bases__ if classes.get(base.__name__) is base and base is not value]
    lines = [f'{indent}class {name}({", ".join(bases)}):' if bases else f'{indent}class {name}:']
    inner = f'{indent}    '
    members = getattr(value, '__members__', {})
    if members:
        lines += [f'{inner}__members__: ClassVar[dict[str, Self]]', f'{inner}name: str', f'{inner}value: int']
        lines += [f'{inner}def __int__(self) -> int: ...']
    for member, entry in vars(value).items():
        if isinstance(entry, type) and entry.__module__ == value.__module__:
            lines += class_stub(member, entry, classes, inner)
        elif isinstance(members, dict) and member in members:
            lines.append(f'{inner}{member}: ClassVar[Self]')
        elif isinstance(entry, property):
            lines += property_stub(member, entry, classes, inner)
        elif member in ('__init__', '__len__', '__getitem__', '__iter__', '__buffer__') or not member.startswith('_'):
            if callable(entry):
                lines += function_stub(member, entry.__doc__ or '', classes, inner)
            else:
                lines.append(f'{inner}{member}: Any')
    if name == 'Dims':
        lines.append(f'{inner}def __iter__(self) -> collections.abc.Iterator[int]: ...')
    return [*lines, f'{inner}...']


def property_stub(name: str, entry: property, classes: dict[str, type], indent: str) -> list[str]:
    match = re.search(r'-> (.+)', (entry.fget.__doc__ or '') if entry.fget else '')
    annotation = annotation_stub(match.group(1).strip(), classes) if match else 'Any'
    lines = [f'{indent}@property', f'{indent}def {name}(self) -> {annotation}: ...']
    if entry.fset is not None:
        match = re.search(r', \w+: (.+?)\) -> None', entry.fset.__doc__ or '')
        taken = annotation_stub(match.group(1).strip(), classes) if match else 'Any'
        lines += [f'{indent}@{name}.setter', f'{indent}def {name}(self, value: {taken}) -> None: ...']
    return lines


def function_stub(name: str, text: str, classes: dict[str, type], indent: str) -> list[str]:
    signatures = re.findall(rf'^(?:\d+\. )?({name}\((?!\*args).*\) -> .+)$', text, re.MULTILINE)
    lines = []
    for signature in signatures:
        line = signature_stub(signature, classes)
        if len(signatures) > 1:
            lines.append(f'{indent}@overload')
        lines.append(f'{indent}def {line}: ...')
    first = '' if not indent else 'self, '
    return lines or [f'{indent}def {name}({first}*args: Any, **kwargs: Any) -> Any: ...']


def signature_stub(signature: str, classes: dict[str, type]) -> str:
    for cpp, python in UNTRANSLATED.items():
        signature = signature.replace(cpp, python)
    signature = re.sub(r'= <[^>]*>', '= ...', signature)
    signature = re.sub(r'[\w:]+::\w+(<[^>]*>)?', 'Any', signature)
    try:
        function = ast.parse(f'def {signature}: ...').body[0]
    except SyntaxError:
        return f'{signature.partition("(")[0]}(self, *args: Any, **kwargs: Any) -> Any'
    assert isinstance(function, ast.FunctionDef)
    for argument in function.args.args:
        if argument.arg == 'self':
            argument.annotation = None
        elif argument.annotation is not None:
            taken = annotation_stub(ast.unparse(argument.annotation), classes)
            taken = f'{taken} | collections.abc.Sequence[int]' if taken == 'Dims' else taken
            argument.annotation = ast.parse(taken, mode='eval').body
    for argument, default in zip(reversed(function.args.args), reversed(function.args.defaults), strict=False):
        if isinstance(default, ast.Constant) and default.value is None and argument.annotation is not None:
            argument.annotation = ast.parse(f'{ast.unparse(argument.annotation)} | None', mode='eval').body
    returned = annotation_stub(ast.unparse(function.returns), classes) if function.returns else 'Any'
    is_object = returned in classes and returned not in VALUES and not hasattr(classes[returned], '__members__')
    return f'{function.name}({ast.unparse(function.args)}) -> {returned}{" | None" if is_object else ""}'


def annotation_stub(annotation: str, classes: dict[str, type]) -> str:
    annotation = annotation.replace('tensorrt.tensorrt.', '').replace('typing_extensions.CapsuleType', 'Any')
    annotation = re.sub(r'\bcapsule\b|\bobject\b', 'Any', annotation)
    known = {*classes, *dir(__builtins__), 'typing', 'collections', 'Any', 'numpy'}
    roots = {name.partition('.')[0] for name in re.findall(r'(?<![\w.])[A-Za-z_][\w.]*', annotation)}
    return annotation if roots <= known | {'int', 'str', 'bool', 'float', 'list', 'tuple', 'dict', 'bytes'} else 'Any'


def cuda_stub(module: ModuleType) -> list[str]:
    """Return the lines of a stub of cuda.bindings, whose functions return a code and values."""
    lines = []
    for name, value in vars(module).items():
        if name.startswith('_'):
            continue
        if isinstance(value, type) and hasattr(value, '__members__'):
            lines += [f'class {name}:', '    name: str', '    value: int', '    def __int__(self) -> int: ...']
            lines += [f'    {member}: ClassVar[Self]' for member in value.__members__]
        elif isinstance(value, type):
            lines += [f'class {name}:', '    def __init__(self, *args: Any) -> None: ...']
            lines += ['    def __getattr__(self, name: str) -> Any: ...']
        elif isinstance(value, int):
            lines.append(f'{name}: int')
        elif callable(value):
            arguments = ', '.join(f'{argument}: Any' for argument in inspect.signature(value).parameters)
            lines.append(f'def {name}({arguments}) -> tuple[Any, ...]: ...')
    return lines


if __name__ == '__main__':
    sys.exit(main())
