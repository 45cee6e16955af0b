"""What the heads of a model attend to, measured: `zoo.head_roles`."""
