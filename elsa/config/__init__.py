"""From a composed config to checked objects (`build`, `checks`), and to the keys that name a run (`identity`)."""
