"""From a composed config to checked objects (`schema`), and to the name of its run folder (`run_id`)."""
