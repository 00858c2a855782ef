"""Where sources come from: the hubs, local directories, and the transports below them."""
