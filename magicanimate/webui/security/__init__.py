"""What stands between the network and the page: who may talk to it, and what it answers when it fails."""
