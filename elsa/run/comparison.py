"""What a multirun ends with: one table and one picture of all its runs."""

from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from elsa.files import content_hash, write_atomically
from elsa.report.figure import perplexity_figure
from elsa.report.record import read_record
from elsa.report.table import markdown_table, print_tables


class Comparison(Callback):
    """Collects the folders of the finished jobs; prints and draws when the multirun ends."""

    def __init__(self) -> None:
        self._folders: list[str] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        if isinstance(job_return._return_value, list):
            self._folders += job_return.return_value

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        records = [read_record(Path(folder)) for folder in dict.fromkeys(self._folders)]
        if not records:
            return
        outputs = Path(config.paths.outputs) / "comparisons" / content_hash([record["name"] for record in records])
        write_atomically(outputs / "table.md", lambda temporary: temporary.write_text(markdown_table(records)))
        print_tables(records)
        print(f"table   {outputs / 'table.md'}", flush=True)
        if any(record["perplexity"] for record in records):
            perplexity_figure(records, outputs / "perplexity.png")
            print(f"picture {outputs / 'perplexity.png'}", flush=True)
