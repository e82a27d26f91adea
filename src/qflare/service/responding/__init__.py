"""What a worker does about incidents by itself: a playbook's rules, and the webhook."""
