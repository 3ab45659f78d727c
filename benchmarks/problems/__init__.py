"""What is computed: one module per family of cases."""
