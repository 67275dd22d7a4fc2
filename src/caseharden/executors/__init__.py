"""Who does a study's work, and where: here, in processes beside this one, or on the machines of a cluster."""
