"""Cost: what a study takes, in operations, memory, hours and money, before anything of it runs."""
