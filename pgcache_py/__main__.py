"""python -m pgcache_py"""

import sys

try:
    from .cli.main import main
except ImportError as error:
    # psycopg, without its extra `binary`, wants a libpq from the system.
    if "libpq" not in str(error):
        raise
    sys.exit("error: psycopg finds no libpq\nhint:  pip install 'pgcache[binary]'")

sys.exit(main())
