"""The config folders of packages that add methods, where Hydra looks for them: after this project's own."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from elsa.method.registry import config_folders


class AddedMethods(SearchPathPlugin):
    """`conf` of every package with an entry point in `elsa.methods`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in config_folders():
            search_path.append(provider=folder.parent.name, path=f"file://{folder}")
