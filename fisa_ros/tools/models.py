"""List models and get those that are not shipped: `python -m fisa_ros.tools.models download fisa-s`."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
import importlib.util
import logging
from pathlib import Path
import sys
import time
from typing import Any

from fisa_ros.core.errors import DownloadError, WeightsError
from fisa_ros.core.manifest import ModelManifest, are_assembled, load_manifest, shipped_models, untuned_note
from fisa_ros.core.model_sources import ModelSource, file_url, hub_endpoint
from fisa_ros.core.unfinished_file import remove_unfinished
from fisa_ros.runtime.model_state import model_state
from fisa_ros.runtime.model_store import (
    ModelRecord,
    are_weights_current,
    assembled_path,
    forget_untold,
    keep_weights,
    locked,
    read_record,
    record_key,
    source_folder,
)
from fisa_ros.tools.model_arguments import report

_LOG = logging.getLogger('fisa_ros.models')
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 2 if nothing could be done, or 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s: %(message)s', stream=sys.stderr)
    logging.getLogger('fisa_ros').setLevel(logging.INFO)
    make, show = {'list': (_list, _print_list), 'info': (_info, _print_info), 'download': (_download, _print_download)}[
        options.action
    ]
    try:
        return 2 if report(lambda: make(options), options.json, show) is None else 0
    except KeyboardInterrupt:
        print('interrupted: the same command goes on where this one stopped', file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m fisa_ros.tools.models',
        description='List the models, or put one together from public checkpoints.',
    )
    actions = parser.add_subparsers(dest='action', required=True)
    listing = actions.add_parser('list', help='what models there are, and what is there of each')
    info = actions.add_parser('info', help='all about one model, and what to run next')
    download = actions.add_parser(
        'download',
        help='fetch the checkpoints of a model and make its weights of them',
        description='Fetch the public checkpoints that a model is made of from the Hugging Face Hub, check them, and '
        'make its weights of them, which needs PyTorch. Files go to $FISA_ROS_MODELS, by default '
        '~/.local/share/fisa_ros/models. HTTPS_PROXY and NO_PROXY, HF_ENDPOINT (a mirror of the hub) and HF_TOKEN are '
        'honoured. What was interrupted goes on where it stopped.',
    )
    for action in (info, download):
        action.add_argument('model', metavar='NAME', help='name or manifest of the model')
    download.add_argument(
        '--from',
        dest='mirror',
        type=Path,
        metavar='DIR',
        help='take the files from a folder instead: OWNER/NAME/FILE in it, or FILE',
    )
    download.add_argument(
        '--force', action='store_true', help='fetch all anew, and accept files that are others than the last time'
    )
    for action in (listing, info, download):
        action.add_argument('--json', action='store_true', help='print one JSON object')
    return parser


def _list(_: argparse.Namespace) -> dict[str, Any]:
    return {'models': [_summary(load_manifest(name)) for name in shipped_models()]}


def _summary(manifest: ModelManifest) -> dict[str, Any]:
    state = asdict(model_state(manifest, read_record(manifest)))
    return {
        'name': manifest.name,
        'description': manifest.description,
        'licence': manifest.licence,
        'image_size_hw': list(manifest.image_size_hw),
        'resize': manifest.resize.kind,
        **state,
        'weights': str(manifest.weights.path),
        'note': untuned_note(manifest),
    }


def _info(options: argparse.Namespace) -> dict[str, Any]:
    manifest = load_manifest(options.model)
    record = read_record(manifest)
    return {
        **_summary(manifest),
        'manifest': str(manifest.path),
        'generator': manifest.generator['type'],
        'classifier': manifest.classifier['type'],
        'text_encoder': manifest.text_encoder['type'],
        'sha256': manifest.weights.sha256,
        'sources': [_source_summary(source, record) for source in manifest.sources.values()],
    }


def _source_summary(source: ModelSource, record: ModelRecord) -> dict[str, Any]:
    files = [
        {
            **asdict(file),
            'url': file_url(hub_endpoint(), source, file),
            'fetched': asdict(found) if (found := record.files.get(record_key(source, file))) else None,
        }
        for file in source.files
    ]
    return {**asdict(source), 'files': files}


def _download(options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    manifest = load_manifest(options.model)
    if manifest.weights.path.is_file() and not are_assembled(manifest):
        _LOG.info('%s has weights of its own (%s): nothing to download', manifest.name, manifest.weights.path)
    elif are_assembled(manifest):
        _fetch_and_assemble(manifest, options)
    elif manifest.sources:
        raise DownloadError(
            f'the weights of {manifest.name} are missing and cannot be made of its sources, as they are of a training: '
            f'put them back to {manifest.weights.path}'
        )
    else:
        raise DownloadError(f'model manifest {manifest.path} names no sources to make {manifest.name} of')
    return {**_summary(load_manifest(options.model)), 'seconds': round(time.monotonic() - started, 3)}


def _fetch_and_assemble(manifest: ModelManifest, options: argparse.Namespace) -> None:
    _require('requests', 'fetching files needs requests, which is not installed: pip install requests')
    from fisa_ros.runtime.hub_files import Hub
    from fisa_ros.runtime.model_download import fetch_sources

    hub = Hub.from_environment()
    try:
        with locked(manifest):
            remove_unfinished(manifest.folder)
            record = fetch_sources(manifest, hub, mirror=options.mirror, force=options.force)
            if not are_weights_current(manifest, record) or options.force:
                _assemble(manifest, record)
    finally:
        hub.close()


def _assemble(manifest: ModelManifest, record: ModelRecord) -> None:
    out = assembled_path(manifest)
    for module in ('torch', 'open_clip', 'transformers', 'safetensors'):
        _require(
            module,
            f'the sources of {manifest.name} are in {out.parent}; making weights of them needs {module}, which is not '
            'installed: pip install torch open_clip_torch transformers safetensors, and run the same command',
        )
    # Here, for nothing else needs PyTorch.
    from fisa_ros.networks.assemble import assemble_model
    from fisa_ros.networks.weights import write_tensors

    _LOG.info('making %s', out)
    folders = {part: source_folder(manifest, source) for part, source in manifest.sources.items()}
    try:
        tensors = assemble_model(manifest, folders)
    except WeightsError as error:
        if untold := forget_untold(manifest, record):
            raise WeightsError(
                f'{error}; nobody told the sum of {", ".join(untold)}: if they came damaged, repeat with --force'
            ) from error
        raise
    write_tensors(tensors, out, lambda made: keep_weights(manifest, record, made))
    _LOG.info('%s assembled: %s', manifest.name, out)


def _require(module: str, text: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise DownloadError(text)


def _print_list(summary: dict[str, Any]) -> None:
    print(f'{"name":12} {"state":11} {"size":>9} {"to fetch":>9} {"numbers":>9}  {"input":9} weights')
    for model in summary['models']:
        height, width = model['image_size_hw']
        print(
            f'{model["name"]:12} {model["state"]:11} {_in_mb(model["bytes_present"]):>9} '
            f'{_in_mb(model["bytes_to_download"]):>9} {_in_millions(model["parameters"]):>9}  {f"{width}x{height}":9} '
            f'{model["weights"]}'
        )
    for model in summary['models']:
        print(f'\n{model["name"]}: {model["description"]}\n  {model["licence"]}')
        if model['note']:
            print(f'  {model["note"]}')
        print(f'  next: {model["next_command"]}')


def _print_info(summary: dict[str, Any]) -> None:
    height, width = summary['image_size_hw']
    print(f'{summary["name"]}: {summary["description"]}')
    for name, value in (
        ('licence', summary['licence']),
        ('manifest', summary['manifest']),
        ('made of', f'{summary["generator"]}, {summary["classifier"]}, {summary["text_encoder"]} text encoder'),
        ('input', f'{width}x{height}, resize: {summary["resize"]}'),
        ('state', summary['state']),
        ('weights', summary['weights']),
        ('sha256', summary['sha256'] or '-'),
        ('numbers', _in_millions(summary['parameters'])),
        ('size', _in_mb(summary['bytes_present'])),
        ('to fetch', _in_mb(summary['bytes_to_download'])),
    ):
        print(f'  {name:9} {value}')
    for source in summary['sources']:
        print(f'  {source["part"]}: {source["repo"]} at {source["revision"]} ({source["layout"]}; {source["licence"]})')
        for file in source['files']:
            fetched = file['fetched']
            size = file['size'] or (fetched and fetched['size'])
            print(
                f'    {file["url"]}\n      size {size if size is not None else "not known"}, sha256 {_sum_text(file)}'
            )
            if fetched:
                print(
                    f'      fetched {fetched["date"]} from {fetched["url"]} at {fetched["revision"] or "no revision"}'
                )
    if summary['note']:
        print(f'  note: {summary["note"]}')
    print(f'  next: {summary["next_command"]}')


def _sum_text(file: dict[str, Any]) -> str:
    if file['sha256']:
        return f'{file["sha256"]} (of the manifest)'
    if file['fetched']:
        return f'{file["fetched"]["sha256"]} (of the first time)'
    return 'not known: that of the first time counts'


def _print_download(summary: dict[str, Any]) -> None:
    print(f'{summary["name"]} is {summary["state"]}, after {summary["seconds"]:.0f} s: {summary["weights"]}')
    if summary['note']:
        print(summary['note'])
    print(f'next: {summary["next_command"]}')


def _in_mb(size: int | None) -> str:
    return 'not known' if size is None else f'{size / 1e6:.1f} MB'


def _in_millions(count: int | None) -> str:
    return '-' if count is None else f'{count / 1e6:.1f} M'


if __name__ == '__main__':
    sys.exit(main())
