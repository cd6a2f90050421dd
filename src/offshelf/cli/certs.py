"""`offshelf certs`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

_SERVICES = ("orchestrator", "predictor", "extractor", "trainer", "stats")


@click.command(
    epilog="""\b
Examples:
  offshelf certs certs/ --host offshelf.example.org --host 10.1.2.3
  offshelf certs certs/ --service predictor --host offshelf.example.org
\b
Run it again before the certificates expire and put the new ones in place: services take them up without a restart.
FOLDER/ca/ca.key is the key to everything: keep it away from the cluster.
"""
)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--namespace", default="offshelf", show_default=True, help="Kubernetes namespace of the services.")
@click.option(
    "--host",
    "hosts",
    metavar="NAME_OR_IP",
    multiple=True,
    help="Where users reach the orchestrator and the predictor; may be repeated.  [default: as before]",
)
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long they are valid.")
@click.option(
    "--service",
    "services",
    type=click.Choice(_SERVICES),
    multiple=True,
    help="Only this service; may be repeated.  [default: all]",
)
@click.option("--new-authority", is_flag=True, help="Exchange the authority too; this takes all services with it.")
def certs(
    *,
    folder: Path,
    namespace: str,
    hosts: tuple[str, ...],
    days: int,
    services: tuple[str, ...],
    new_authority: bool,
) -> None:
    """Make the certificates by which services know each other, and users know them; or renew them."""
    from offshelf.errors import NotFound

    try:
        from offshelf import certificates
    except ModuleNotFoundError as error:
        raise NotFound(f"Making certificates needs the package {error.name}: pip install 'offshelf[certs]'.") from None

    if new_authority and services:
        raise click.UsageError("A new authority takes all services with it: leave --service out.")
    issued = certificates.issue(
        folder,
        namespace=namespace,
        hosts=hosts,
        days=days,
        services=services or certificates.SERVICES,
        new_authority=new_authority,
    )
    if issued.new_authority:
        click.echo(
            f"New authority in {folder / 'ca'}: keep its key safe. Users need {folder / 'orchestrator' / 'ca.crt'}."
        )
    click.echo(f"Certificates for {', '.join(issued.services)}, valid until {issued.ends:%Y-%m-%d}, in {folder}.")
    click.echo("To put them into the cluster:")
    quoted, space = shlex.quote(str(folder)), shlex.quote(namespace)
    click.echo(
        f"""\
  for service in {" ".join(issued.services)}; do
    kubectl create secret generic "offshelf-tls-$service" --namespace {space} \\
      --from-file {quoted}/"$service" --dry-run=client -o yaml | kubectl apply -f -
  done"""
    )
    if issued.previous_trusted:
        minutes = round(certificates.HANDOVER.total_seconds() / 60)
        click.echo(
            f"The old authority is still believed. Run this again {minutes} minutes after they are in place, without "
            "--new-authority, and put those in place too: then it no longer is."
        )
