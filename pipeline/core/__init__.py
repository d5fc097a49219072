"""What every room shares: settings, plugins, errors, progress, resources, and a user's files."""
