"""What the recipes share: servers, peers, timing, verdicts. Python 3.9 or later, no packages."""
