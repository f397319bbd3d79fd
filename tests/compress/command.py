"""The command as a program, and options that make it short."""

import typer
from typer.testing import CliRunner

from cutwork.cli.compress import compress

app = typer.Typer()
app.command()(compress)

FEW = ["--samples", 20, "--validation-samples", 8, "--test-samples", 8, "--max-length", 128, "--max-new-tokens", 4]
FEW += ["--calibration-samples", 8, "--method", "sparsegpt", "--max-steps", 2, "--batch-size", 4, "--threads", 1]
FEW += ["--metric", "tokens"]


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
