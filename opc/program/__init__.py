"""opc.program"""
