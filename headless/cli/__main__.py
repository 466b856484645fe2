"""python -m sampling_kit.headless.cli"""

from . import main

main()
