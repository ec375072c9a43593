"""`python -m appliance` is `vchd`."""

from appliance.main import run

run()
