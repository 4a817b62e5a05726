"""`guidegen nnunet` as a user calls it, in this process."""

import argparse

from guidegen_data.cli import nnunet as command


def run_command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))
