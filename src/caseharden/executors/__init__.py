"""Who does a study's work, and where: here, or in processes beside this one."""
