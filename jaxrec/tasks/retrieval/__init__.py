"""Items for users: two towers."""
