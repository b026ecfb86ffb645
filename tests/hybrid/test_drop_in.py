"""What holds for Cache and AsyncCache holds for the hybrid ones: their tests, with all types in the hot tier."""

from __future__ import annotations

import pytest

from tests.client.test_cached import *  # noqa: F403
from tests.client.test_errors import *  # noqa: F403
from tests.client.test_generic import *  # noqa: F403
from tests.client.test_typed import *  # noqa: F403

pytestmark = pytest.mark.once

# What is different: without a tenant a hybrid cache means the shared one, never the session's setting; Redis does not
# know the session's clock; hits are reported with a delay; and Redis saves or costs round trips.
del (
    test_a_view_per_tenant_in_a_transaction_leaves_no_trace,  # noqa: F821
    test_entry_tells_what_is_known,  # noqa: F821
    test_one_round_trip,  # noqa: F821
    test_time_to_live,  # noqa: F821
)
