"""The command ``mmakd``: runs the scripts of ``tools/`` that mmdet and mmseg do not have."""
import importlib
import sys
from pathlib import Path

COMMANDS = {
    'check': ('check_config', 'check a config before training'),
    'check-data': ('check_data', 'check images and annotations before training'),
    'compare': ('compare_models', 'write a page that compares two students'),
    'evaluate': ('evaluate_avatars', 'compare a teacher with the mean of its Avatars'),
    'export': ('export_onnx', 'write a student as ONNX'),
    'make-config': ('make_config', 'write the config of a distillation'),
    'plot': ('plot_log', 'draw the curves of trainings'),
    'visualize': ('visualize_avatars', 'draw what a teacher teaches on images'),
}


def tools_folder() -> Path:
    """Find the scripts: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / '.mim' / 'tools', package.parent / 'tools')
                if folder.is_dir())


def main() -> None:
    """Run the script that the first argument names, with the others as its command line."""
    command = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if command not in COMMANDS:
        listed = '\n'.join(f'  {name:12} {what}' for name, (_, what) in COMMANDS.items())
        text = (f'usage: mmakd COMMAND ARGUMENTS\n\n{listed}\n\nmmakd COMMAND --help explains a '
                "command. To train and test, use the scripts of mmdet and mmseg, or mmakd's own "
                f'in\n{tools_folder()}')
        if command in ('-h', '--help'):
            print(text)
            return
        print(f'{text}\n\nerror: {command!r} is no command', file=sys.stderr)
        sys.exit(2)
    # Not before: that takes seconds.
    from mmakd.utils.cli import config_errors_as_messages
    sys.argv = [f'mmakd {command}', *sys.argv[2:]]
    sys.path.insert(0, str(tools_folder()))  # as Python does for a script
    script = importlib.import_module(COMMANDS[command][0])
    with config_errors_as_messages():
        sys.exit(script.main())


if __name__ == '__main__':
    main()
