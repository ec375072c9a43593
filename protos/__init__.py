"""The wire between appliance and tether: `tether/v1/*.proto` and the code generated from it (`make protos`)."""
