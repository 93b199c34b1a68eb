"""What every floor may use and that knows no IR: errors, settings, files, forks, threads."""
