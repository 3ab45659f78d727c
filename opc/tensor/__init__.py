"""opc.tensor"""
