import sys

from kmnist_pipeline.cli import main

sys.exit(main())
