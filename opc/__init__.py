"""The opc operator compiler."""
