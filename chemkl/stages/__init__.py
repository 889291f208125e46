"""The stages: each is a module with ``run(config, out_dir)``, imported only when it is called."""
