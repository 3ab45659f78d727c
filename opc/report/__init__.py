"""opc.report"""
