"""Reports: one page of HTML about a flow, a training or an integration."""
