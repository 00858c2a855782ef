"""What keeps a store in good order between runs."""
